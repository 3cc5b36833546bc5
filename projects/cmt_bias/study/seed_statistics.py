"""Means over seeds, and paired differences between variants with their intervals."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
NO_DIFFERENCE = 'no difference seen'
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


def verdict(low: float, high: float, num_pairs: int) -> str:
    """What an interval of a difference allows to say."""
    if num_pairs == 0:
        return 'no pairs'
    if num_pairs == 1:
        return 'one seed: no interval'
    if low > 0:
        return 'higher'
    if high < 0:
        return 'lower'
    return NO_DIFFERENCE


def summarize(runs: pd.DataFrame, reference: str) -> pd.DataFrame:
    """One row for each variant, subset and metric.

    Args:
        runs: Columns of :data:`RUN_COLUMNS`, one row for each run, subset and metric; rows without
            a value count as missing.
        reference: Variant that the others are compared with, seed by seed.

    Returns:
        variant, subset, metric, n (seeds), mean, std (of a sample, n - 1), pairs (seeds that both
        have), difference (mean of variant minus reference), low, high (95 %) and verdict, in the
        order in which they came.
    """
    known = runs.dropna(subset=['value'])
    names = ['variant', 'subset', 'metric']
    groups = known.groupby(names, sort=False)['value']
    summary = groups.agg(n='count', mean='mean', std='std').reset_index()
    of_reference = known[known['variant'] == reference].drop(columns='variant')
    pairs = known.merge(of_reference, on=['seed', 'subset', 'metric'], suffixes=('', '_reference'))
    pairs['difference'] = pairs['value'] - pairs['value_reference']
    differences = {
        key: group.to_numpy() for key, group in pairs.groupby(names, sort=False)['difference']
    }
    rows = [
        _difference_row(differences.get(tuple(key), np.empty(0)), key[0] == reference)
        for key in summary[names].itertuples(index=False)
    ]
    columns = ['pairs', 'difference', 'low', 'high', 'verdict']
    return summary.join(pd.DataFrame(rows, columns=columns, index=summary.index))


def _difference_row(differences: np.ndarray, is_reference: bool) -> tuple:
    if is_reference:
        return 0, math.nan, math.nan, math.nan, 'reference'
    count = len(differences)
    mean = float(differences.mean()) if count else math.nan
    low, high = t_interval(differences.tolist())
    return count, mean, low, high, verdict(low, high, count)
