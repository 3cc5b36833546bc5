"""Does a router's trust move to the healthy sensor under a failure?"""

import math
from collections.abc import Mapping

import numpy as np

from ..metrics.intervals import t_interval

Weights = Mapping[str, tuple[float, float]]


def trust_shift(clean: Weights, failed: Weights) -> tuple[float, float, float]:
    """Change of (LiDAR weight - camera weight) of the samples that both tests have.

    Consecutive samples of a scene are alike, so that the interval is rather too narrow.

    Args:
        clean: By sample, the mean weights of LiDAR and cameras without failure.
        failed: The same under the failure.

    Returns:
        Mean over the samples, each compared with itself, and the ends of its 95 % interval; NaN
        where there is none.
    """
    common = sorted(clean.keys() & failed.keys())
    if not common:
        return math.nan, math.nan, math.nan
    before, after = (np.array([weights[name] for name in common]) for weights in (clean, failed))
    shifts = (after[:, 0] - after[:, 1]) - (before[:, 0] - before[:, 1])
    return float(shifts.mean()), *t_interval(shifts)


def shift_in_words(low: float, high: float, healthy: str) -> str:
    """What the interval of a shift allows to say.

    Args:
        low: Its lower end.
        high: Its upper end.
        healthy: The sensor without failure, 'L' or 'C'; '' if both or none are healthy.
    """
    if not healthy or math.isnan(low):
        return '-'
    if low <= 0 <= high:
        return 'no difference seen'
    return f'to the {"healthy" if (low > 0) == (healthy == "L") else "failed"} sensor'


def trust_falls(clean: np.ndarray, failed: np.ndarray, spoiled: np.ndarray) -> tuple[float, float]:
    """How far the trust of queries in the failed sensors has fallen, each compared with itself.

    Args:
        clean: ``(2, Q)`` weights of LiDAR and cameras without failure.
        failed: The same under the failure.
        spoiled: ``(2, Q)`` bool: what of a sensor a query looks at is spoiled.

    Returns:
        The mean fall where queries look at a spoiled part, and that in the same sensors of the
        queries that look elsewhere; above zero where trust is withdrawn, NaN without such queries.
    """
    sensors = spoiled.any(axis=1)
    falls = clean[sensors].astype(np.float64) - failed[sensors]
    there, elsewhere = falls[spoiled[sensors]], falls[~spoiled[sensors]]
    return (
        float(there.mean()) if there.size else math.nan,
        float(elsewhere.mean()) if elsewhere.size else math.nan,
    )
