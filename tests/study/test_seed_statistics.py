"""Intervals, comparisons and what a design can see, against small cases worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cmt_bias.study.seed_statistics import (
    RUN_COLUMNS,
    compare,
    holm,
    smallest_visible_difference,
    t_interval,
)

# Quantiles 0.975 of Student's t from a printed table.
T_2 = 4.302653
T_1 = 12.706205


def test_interval_of_three_values_is_mean_and_t_times_standard_error():
    # mean 2, squared deviations 1 + 0 + 1, standard deviation 1, standard error 1 / sqrt(3)
    low, high = t_interval([1.0, 2.0, 3.0])
    assert low == pytest.approx(2 - T_2 / math.sqrt(3), rel=1e-6)
    assert high == pytest.approx(2 + T_2 / math.sqrt(3), rel=1e-6)


def test_interval_of_two_values():
    # mean 1, standard deviation sqrt(2), standard error 1
    assert t_interval([0.0, 2.0]) == pytest.approx((1 - T_1, 1 + T_1), rel=1e-6)


def test_one_value_has_no_interval_and_equal_values_have_one_without_width():
    assert all(math.isnan(end) for end in t_interval([0.3]))
    assert all(math.isnan(end) for end in t_interval([]))
    assert t_interval([0.3, 0.3, 0.3]) == (0.3, 0.3)


def runs(values: dict[str, dict[int, float]]) -> pd.DataFrame:
    rows = [
        (variant, seed, 'whole', 'mAP', value)
        for variant, by_seed in values.items()
        for seed, value in by_seed.items()
    ]
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


def test_differences_are_paired_by_seed():
    # Seeds differ by much, the variant is better by 1, 2 and 3 in each of them.
    table = runs({'fixed': {0: 10.0, 1: 20.0, 2: 30.0}, 'learned': {2: 33.0, 0: 11.0, 1: 22.0}})
    found = compare(table, 'learned', 'fixed', 'whole', 'mAP')
    assert (found.count, found.difference) == (3, 2.0)
    assert found.low == pytest.approx(2 - T_2 / math.sqrt(3), rel=1e-6)
    assert found.high == pytest.approx(2 + T_2 / math.sqrt(3), rel=1e-6)
    assert found.p_value == pytest.approx(stats.ttest_rel([11, 22, 33], [10, 20, 30]).pvalue)


def test_only_seeds_that_both_have_are_compared():
    table = runs({'fixed': {0: 1.0, 1: 2.0}, 'learned': {1: 2.5, 2: 9.0}, 'other': {5: 1.0}})
    found = compare(table, 'learned', 'fixed', 'whole', 'mAP')
    assert (found.count, found.difference) == (1, 0.5)
    assert math.isnan(found.low) and math.isnan(found.p_value)
    assert compare(table, 'other', 'fixed', 'whole', 'mAP').count == 0
    assert compare(table, 'nobody', 'fixed', 'whole', 'mAP').count == 0
    assert compare(table, 'learned', 'fixed', 'night', 'mAP').count == 0


def test_equal_differences_are_certain():
    table = runs({'fixed': {0: 1.0, 1: 2.0}, 'learned': {0: 1.5, 1: 2.5}, 'same': {0: 1, 1: 2}})
    assert compare(table, 'learned', 'fixed', 'whole', 'mAP').p_value == 0.0
    assert compare(table, 'same', 'fixed', 'whole', 'mAP').p_value == 1.0


def test_adjusted_p_values_of_a_worked_example():
    # 0.01 x 4, 0.02 x 3, then max(0.06, 0.03 x 2), and 0.5 x 1
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    known, unknown = holm([0.04, math.nan])
    assert known == 0.04 and math.isnan(unknown)


def test_a_difference_that_the_design_can_see_is_found_as_often_as_it_says():
    count, deviation = 5, 0.002
    difference = smallest_visible_difference(deviation, count)
    samples = np.random.default_rng(0).normal(difference, deviation, (4000, count))
    found = (stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05).mean()
    assert 0.75 < found < 0.87  # 0.8 to first order
    assert math.isnan(smallest_visible_difference(deviation, 1))
