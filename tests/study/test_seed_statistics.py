"""Intervals, comparisons and what a design can see, against small cases worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cmt_bias.study.seed_statistics import (
    compare,
    estimate,
    holm,
    residual_spread,
    smallest_visible_difference,
)

# Quantiles 0.975 of Student's t from a printed table.
T_2 = 4.302653
T_1 = 12.706205


def test_interval_of_three_values_is_mean_and_t_times_standard_error():
    # mean 2, squared deviations 1 + 0 + 1, standard deviation 1, standard error 1 / sqrt(3)
    found = estimate(pd.Series([1.0, 2.0, 3.0, math.nan]))
    assert (found.count, found.mean) == (3, 2.0)
    assert found.low == pytest.approx(2 - T_2 / math.sqrt(3), rel=1e-6)
    assert found.high == pytest.approx(2 + T_2 / math.sqrt(3), rel=1e-6)


def test_interval_of_two_values():
    # mean 1, standard deviation sqrt(2), standard error 1
    found = estimate(pd.Series([0.0, 2.0]))
    assert (found.low, found.high) == pytest.approx((1 - T_1, 1 + T_1), rel=1e-6)


@pytest.mark.parametrize('values', [[], [0.3], [0.3, 0.3, 0.3]])
def test_values_that_tell_nothing_of_their_noise_have_no_interval(values):
    found = estimate(pd.Series(values, dtype=float))
    assert found.count == len(values) and math.isnan(found.low) and math.isnan(found.p_value)


def runs(**values: dict[int, float]) -> pd.DataFrame:
    return pd.DataFrame(values).rename_axis(index='seed', columns='variant')


def test_differences_are_paired_by_seed():
    # Seeds differ by much, the variant is better by 1, 2 and 3 in each of them.
    table = runs(fixed={0: 10.0, 1: 20.0, 2: 30.0}, learned={2: 33.0, 0: 11.0, 1: 22.0})
    found = compare(table, 'learned', 'fixed')
    assert (found.count, found.mean) == (3, 2.0)
    assert found.low == pytest.approx(2 - T_2 / math.sqrt(3), rel=1e-6)
    assert found.high == pytest.approx(2 + T_2 / math.sqrt(3), rel=1e-6)
    assert found.p_value == pytest.approx(stats.ttest_rel([11, 22, 33], [10, 20, 30]).pvalue)
    assert not found.leaves_out_zero


def test_only_seeds_that_both_have_are_compared():
    table = runs(fixed={0: 1.0, 1: 2.0}, learned={1: 2.5, 2: 9.0}, other={5: 1.0})
    found = compare(table, 'learned', 'fixed')
    assert (found.count, found.mean) == (1, 0.5)
    assert math.isnan(found.low) and math.isnan(found.p_value)  # nothing to judge it by
    assert compare(table, 'other', 'fixed').count == 0
    assert compare(table, 'nobody', 'fixed').count == 0


@pytest.mark.parametrize('count', [1, 2, 3, 5])
@pytest.mark.parametrize('step', [0.0, 0.5, 1e-4])
def test_differences_that_are_all_equal_but_for_rounding_say_nothing_of_their_noise(count, step):
    values = {seed: 0.1 * seed + 0.3 for seed in range(count)}
    found = compare(runs(a=values, b={s: v + step for s, v in values.items()}), 'b', 'a')
    assert (found.count, found.mean) == (count, pytest.approx(step))
    assert math.isnan(found.low) and math.isnan(found.p_value)
    assert not found.leaves_out_zero and not found.is_significant


def test_one_pair_has_an_interval_by_all_variants_and_no_p():
    table = runs(a={0: 0.0, 1: 1.0}, b={0: 2.0, 1: 5.0}, c={0: 9.0})
    found = compare(table, 'c', 'a')
    assert found.count == 1 and found.low < 9.0 < found.high
    assert math.isnan(found.p_value)


def test_rest_of_two_seeds_and_two_variants_is_what_is_not_additive():
    # Rows 0 2 and 1 5: the interaction is 5 - 1 - 2 + 0 = 2, each rest 0.5, one degree of freedom.
    table = runs(a={0: 0.0, 1: 1.0}, b={0: 2.0, 1: 5.0})
    assert residual_spread(table) == (pytest.approx(1.0), 1)
    # As two pairs alone: differences 2 and 4, standard deviation sqrt(2), of which each of the
    # two runs has its half.
    alone, pooled = estimate(table['b'] - table['a']), compare(table, 'b', 'a')
    assert (pooled.low, pooled.high) == pytest.approx((alone.low, alone.high))
    assert pooled.p_value == pytest.approx(alone.p_value)


def test_rest_of_a_study_with_holes_is_that_of_least_squares():
    random = np.random.default_rng(1)
    table = runs(**{name: dict(enumerate(random.normal(size=4))) for name in 'abc'})
    table.loc[3, 'c'] = np.nan
    rows = [
        [1.0, s == 1, s == 2, s == 3, v == 1, v == 2] for s in range(4) for v in range(3)
        if (s, v) != (3, 2)
    ]  # fmt: skip
    design, values = np.array(rows, float), table.stack().dropna().to_numpy()
    rest = values - design @ np.linalg.pinv(design) @ values
    spread, freedom = residual_spread(table)
    assert freedom == 11 - 6
    assert spread == pytest.approx(math.sqrt((rest**2).sum() / 5))


def test_interval_by_the_spread_of_all_variants_covers_the_truth_as_often_as_it_says():
    random, names = np.random.default_rng(0), list('abcdefghij')
    covered = 0
    for _ in range(300):
        noise = random.normal(size=(2, 10)) + random.normal(size=(2, 1))
        found = compare(pd.DataFrame(noise, columns=names), 'a', 'b')
        covered += found.low <= 0 <= found.high
    assert 0.94 < covered / 300 < 1  # a little more often: of two spreads the larger counts


def test_interval_of_two_pairs_covers_most_often_where_a_variant_spreads_four_times_as_much():
    random, names = np.random.default_rng(0), list('abcdefghij')
    covered = 0
    for _ in range(300):
        noise = random.normal(size=(2, 10)) * ([4.0] + 9 * [1.0]) + random.normal(size=(2, 1))
        found = compare(pd.DataFrame(noise, columns=names), 'a', 'b')
        covered += found.low <= 0 <= found.high
    assert covered / 300 > 0.81  # 0.78 if the freedom were that of all variants


def test_of_two_pairs_that_differ_more_than_others_the_own_spread_counts():
    same = {0: 1.0, 1: 2.0}
    table = runs(a=same, b=same, c=same, d=same, e={0: 5.0, 1: 2.0})
    found, calm = compare(table, 'e', 'a'), compare(table, 'b', 'a')
    assert found.mean == 2.0 and calm.mean == 0.0
    assert found.high - found.low > 1.5 * (calm.high - calm.low)


def test_adjusted_p_values_of_a_worked_example():
    # 0.01 x 4, 0.02 x 3, then max(0.06, 0.03 x 2), and 0.5 x 1
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    known, unknown = holm([0.04, math.nan])
    assert known == 0.04 and math.isnan(unknown)


def test_a_difference_that_the_design_can_see_is_found_as_often_as_it_says():
    deviation = 0.002
    for count, level in ((5, 0.95), (3, 0.99)):
        difference = smallest_visible_difference(deviation, count, level=level)
        samples = np.random.default_rng(0).normal(difference, deviation, (4000, count))
        found = (stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 1 - level).mean()
        assert found == pytest.approx(0.8, abs=0.02)  # three standard errors
    assert math.isnan(smallest_visible_difference(deviation, 1))
