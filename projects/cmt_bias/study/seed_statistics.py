"""Means over seeds, paired differences with their intervals, and what a design can see."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ..metrics.intervals import LEVEL, t_interval

POWER = 0.8
LEAST_SEEDS = 3
"""Of a comparison that is judged by its own spread; with fewer it is that of all variants."""


@dataclass(frozen=True)
class Estimate:
    """A mean over ``count`` seeds, the ends of its 95 % interval, and p of a true mean of 0.

    NaN is what is not known.
    """

    count: int
    mean: float
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan

    @property
    def leaves_out_zero(self) -> bool:
        """Whether the interval does."""
        return self.low > 0 or self.high < 0


def estimate(values: pd.Series) -> Estimate:
    """The mean of values by seed; seeds without a value (NaN) do not count."""
    known = values.dropna().to_numpy(float)
    if len(known) < 2:
        return Estimate(len(known), float(known.mean()) if len(known) else math.nan)
    mean = float(known.mean())
    equal = np.ptp(known) == 0
    p_value = float(mean == 0 if equal else stats.ttest_1samp(known, 0.0).pvalue)
    return Estimate(len(known), mean, *t_interval(known), p_value)


def compare(table: pd.DataFrame, variant: str, against: str) -> Estimate:
    """The difference between two variants, taken seed by seed.

    With fewer than :data:`LEAST_SEEDS` pairs its spread is that of all variants together
    (:func:`residual_spread`), as in the analysis of a randomized block design, or its own where
    that is larger: variants that have little in common spread more than most.

    ``table`` is a measure by seed (rows) and variant (columns); NaN where a run is missing.
    """
    table = table.reindex(columns=table.columns.union([variant, against]))
    differences = table[variant] - table[against]
    found = estimate(differences)
    if not 0 < found.count < LEAST_SEEDS:
        return found
    spread, freedom = residual_spread(table)
    if freedom == 0 or spread == 0:
        return Estimate(found.count, found.mean)
    own = differences.std() if found.count > 1 else 0.0
    error = max(spread * math.sqrt(2), own) / math.sqrt(found.count)
    reach = error * stats.t.ppf((1 + LEVEL) / 2, freedom)
    p_value = 2 * stats.t.sf(abs(found.mean) / error, freedom)
    return Estimate(found.count, found.mean, found.mean - reach, found.mean + reach, p_value)


def residual_spread(table: pd.DataFrame) -> tuple[float, int]:
    """What seeds and variants, each with an effect of its own, leave of a measure unexplained.

    ``table`` is as for :func:`compare`. Returns the standard deviation of the rest, of which every
    variant is taken to have the same, and its degrees of freedom; 0, 0 without any.
    """
    runs = table.stack().dropna()
    levels = (runs.index.get_level_values(level) for level in (0, 1))
    design = np.hstack([pd.get_dummies(level).to_numpy(float) for level in levels])
    solution, _, rank, _ = np.linalg.lstsq(design, runs.to_numpy(), rcond=None)
    freedom = len(runs) - int(rank)
    if freedom <= 0:
        return 0.0, 0
    rest = runs.to_numpy() - design @ solution
    return float(np.sqrt((rest**2).sum() / freedom)), freedom


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
