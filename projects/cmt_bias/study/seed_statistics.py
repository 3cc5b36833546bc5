"""Means over seeds, paired differences with their intervals, and what a design can see."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

LEVEL = 0.95
POWER = 0.8
LEAST_SEEDS = 3  # of a comparison that is judged by its own spread, not by that of all variants
_EQUAL = 1e-9  # relative difference below which values are equal but for rounding


@dataclass(frozen=True)
class Estimate:
    """A mean over ``count`` seeds, the ends of its 95 % interval, and p of a true mean of 0.

    NaN is what is not known: of values that are all equal the latter two, since a measure that is
    too coarse to differ tells nothing of its noise.
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

    @property
    def is_significant(self) -> bool:
        """Whether p says so."""
        return self.p_value < 1 - LEVEL

    def text(self, digits: int = 4) -> str:
        """The mean and, where it is known, its interval; '-' without any value."""
        mean, low, high = (f'{x:+.{digits}f}' for x in (self.mean, self.low, self.high))
        if math.isnan(self.mean):
            return '-'
        return mean if math.isnan(self.low) else f'{mean} [{low}, {high}]'


def estimate(values: pd.Series) -> Estimate:
    """The mean of values by seed; seeds without a value (NaN) do not count."""
    known = values.dropna().to_numpy(float)
    mean = float(known.mean()) if len(known) else math.nan
    if len(known) < 2 or np.ptp(known) <= _EQUAL * np.abs(known).max():
        return Estimate(len(known), mean)
    test = stats.ttest_1samp(known, 0.0)
    low, high = test.confidence_interval(LEVEL)
    return Estimate(len(known), mean, float(low), float(high), float(test.pvalue))


def compare(table: pd.DataFrame, variant: str, against: str) -> Estimate:
    """The difference between two variants of a table, seeds down, taken seed by seed.

    With fewer than :data:`LEAST_SEEDS` pairs its spread is that of all variants together
    (:func:`residual_spread`), as in the analysis of a randomized block design, unless its own is
    larger: variants that have little in common spread more than most. One pair has no spread of
    its own to tell, so that it has an interval, but no p.
    """
    table = table.reindex(columns=table.columns.union([variant, against]))
    differences = table[variant] - table[against]
    found = estimate(differences)
    if not 0 < found.count < LEAST_SEEDS:
        return found
    spread, freedom = residual_spread(table)
    deviation = spread * math.sqrt(2)
    if freedom == 0 or deviation <= _EQUAL * table.abs().max(axis=None):
        return Estimate(found.count, found.mean)
    if found.count > 1 and differences.std() > deviation:
        return found
    error = deviation / math.sqrt(found.count)
    reach = error * stats.t.ppf((1 + LEVEL) / 2, freedom)
    p_value = 2 * stats.t.sf(abs(found.mean) / error, freedom) if found.count > 1 else math.nan
    return Estimate(found.count, found.mean, found.mean - reach, found.mean + reach, p_value)


def residual_spread(table: pd.DataFrame) -> tuple[float, int]:
    """What seeds (rows) and variants, each with an effect of its own, leave unexplained.

    Returns the standard deviation of this rest, of which every variant is taken to have the same,
    and its degrees of freedom; 0, 0 without any.
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


def smallest_visible_difference(deviation: float, count: int, level: float = LEVEL) -> float:
    """The true difference that ``count`` pairs of seeds show with probability :data:`POWER`.

    It shows where the interval of ``level``, by Student's t, leaves out 0. ``deviation`` is that
    of the differences of pairs, not of runs; NaN for fewer than two pairs.
    """
    if count < 2:
        return math.nan
    bound = stats.t.ppf((1 + level) / 2, count - 1)
    shift = optimize.brentq(lambda nc: stats.nct.sf(bound, count - 1, nc) - POWER, 0.0, 1e3)
    return float(deviation * shift / math.sqrt(count))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of p-values that are looked at together; NaN stays NaN.

    The smallest is multiplied by their number, the next by one less, and so on; none gets smaller
    than one before it (Holm, Scandinavian Journal of Statistics 6, 1979).
    """
    known = pd.Series(p_values, dtype=float).dropna().sort_values()
    adjusted = (known * np.arange(len(known), 0, -1)).cummax().clip(upper=1)
    return adjusted.reindex(range(len(p_values))).tolist()
