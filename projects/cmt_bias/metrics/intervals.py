"""The interval of a mean."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The interval of Student's t that covers the true mean with probability :data:`LEVEL`.

    Args:
        values: Independent observations.

    Returns:
        Lower and upper end; NaN for fewer than two values, the value itself if all are equal.
    """
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(LEVEL)
    return float(interval.low), float(interval.high)
