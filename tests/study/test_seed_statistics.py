"""Means, paired differences and intervals against small cases worked out by hand."""

import math

import pandas as pd
import pytest

from cmt_bias.study.seed_statistics import (
    NO_DIFFERENCE,
    RUN_COLUMNS,
    summarize,
    t_interval,
    verdict,
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


@pytest.mark.parametrize(
    ('low', 'high', 'pairs', 'said'),
    [
        (0.1, 0.2, 3, 'higher'),
        (-0.2, -0.1, 3, 'lower'),
        (-0.1, 0.2, 3, NO_DIFFERENCE),
        (0.0, 0.0, 3, NO_DIFFERENCE),
        (math.nan, math.nan, 1, 'one seed: no interval'),
        (math.nan, math.nan, 0, 'no pairs'),
    ],
)
def test_words_say_only_what_the_interval_allows(low, high, pairs, said):
    assert verdict(low, high, pairs) == said


def runs(values: dict[str, dict[int, float]]) -> pd.DataFrame:
    rows = [
        (variant, seed, 'whole', 'mAP', value)
        for variant, by_seed in values.items()
        for seed, value in by_seed.items()
    ]
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


def test_differences_are_paired_by_seed():
    # Seeds differ by much, the variant is better by 1, 2 and 3 in each of them.
    summary = summarize(
        runs({'fixed': {0: 10.0, 1: 20.0, 2: 30.0}, 'learned': {2: 33.0, 0: 11.0, 1: 22.0}}),
        'fixed',
    ).set_index('variant')
    fixed, learned = summary.loc['fixed'], summary.loc['learned']
    assert (fixed['n'], fixed['mean'], fixed['std']) == (3, 20.0, 10.0)
    assert (learned['n'], learned['mean'], learned['std']) == (3, 22.0, 11.0)
    assert (learned['pairs'], learned['difference']) == (3, 2.0)
    assert learned['low'] == pytest.approx(2 - T_2 / math.sqrt(3), rel=1e-6)
    assert learned['high'] == pytest.approx(2 + T_2 / math.sqrt(3), rel=1e-6)
    assert learned['verdict'] == NO_DIFFERENCE
    assert fixed['verdict'] == 'reference'


def test_only_seeds_that_both_have_are_compared():
    values = {'fixed': {0: 1.0, 1: 2.0}, 'learned': {1: 2.5, 2: 9.0}, 'other': {5: 1.0}}
    summary = summarize(runs(values), 'fixed').set_index('variant')
    assert (summary.loc['learned', 'n'], summary.loc['learned', 'pairs']) == (2, 1)
    assert summary.loc['learned', 'difference'] == 0.5
    assert summary.loc['learned', 'verdict'] == 'one seed: no interval'
    assert summary.loc['other', 'verdict'] == 'no pairs'
    assert math.isnan(summary.loc['other', 'std'])


def test_missing_values_and_a_missing_reference_are_left_out():
    values = {'fixed': {0: math.nan}, 'learned': {0: 1.0}}
    summary = summarize(runs(values), 'fixed')
    assert summary['variant'].tolist() == ['learned']
    assert summary['verdict'].tolist() == ['no pairs']
    assert summarize(runs({}), 'fixed').empty
