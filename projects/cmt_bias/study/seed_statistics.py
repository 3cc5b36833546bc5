"""Means over seeds, and paired differences between variants with their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
POWER = 0.8
RUN_COLUMNS = ['variant', 'seed', 'subset', 'metric', 'value']


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """The interval of Student's t for a mean.

    Args:
        values: Independent observations.
        level: Probability that such an interval covers the true mean.

    Returns:
        Lower and upper end; NaN for fewer than two values, the value itself if all are equal.
    """
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    return float(interval.low), float(interval.high)


def smallest_visible_difference(
    deviation: float, count: int, power: float = POWER, level: float = LEVEL
) -> float:
    """The true difference that a paired comparison of seeds would find with a given power.

    Args:
        deviation: Standard deviation over seeds of the differences of pairs; for runs that are
            independent of each other the square root of two times that of one variant.
        count: Number of pairs.
        power: Probability to find it.
        level: Of the interval that has to leave out 0.

    Returns:
        By Student's t, to first order; NaN for fewer than two pairs.
    """
    if count < 2:
        return math.nan
    quantiles = stats.t.ppf((1 + level) / 2, count - 1) + stats.t.ppf(power, count - 1)
    return float(deviation * quantiles / math.sqrt(count))


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two variants.

    Attributes:
        count: Seeds that both have.
        difference: Mean difference; NaN without pairs.
        low: Lower end of its 95 % interval; NaN for fewer than two pairs.
        high: Upper end.
        p_value: Of Student's t test that there is no difference.
    """

    count: int
    difference: float
    low: float
    high: float
    p_value: float


def compare(
    values: pd.DataFrame, variant: str, against: str, subset: str, metric: str
) -> Comparison:
    """Compare two variants seed by seed.

    Args:
        values: Columns of :data:`RUN_COLUMNS`.
        variant: The one.
        against: The other.
        subset: Part of the measures.
        metric: The measure.
    """
    chosen = values[(values['subset'] == subset) & (values['metric'] == metric)]
    by_seed = chosen.pivot_table(index='seed', columns='variant', values='value')
    by_seed = by_seed.reindex(columns=[variant, against])
    differences = (by_seed[variant] - by_seed[against]).dropna().to_numpy()
    count = len(differences)
    mean = float(differences.mean()) if count else math.nan
    low, high = t_interval(differences.tolist())
    if count < 2:
        p_value = math.nan
    elif np.ptp(differences) == 0:
        p_value = float(mean == 0)
    else:
        p_value = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return Comparison(count, mean, low, high, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of p-values that are looked at together; NaN stays NaN.

    The smallest is multiplied by their number, the next by one less, and so on; none gets smaller
    than one before it (Holm, Scandinavian Journal of Statistics 6, 1979).
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = highest
    return adjusted
