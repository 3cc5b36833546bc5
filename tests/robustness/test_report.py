"""The numbers of the report, on cases calculated by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from cmt_bias.failures import all_failures
from cmt_bias.robustness.cell import CellResult
from cmt_bias.robustness.report import (
    failure_means,
    long_table,
    markdown_report,
    router_table,
    save_robustness_plot,
    score_table,
    shift_in_words,
    trust_shift,
)
from cmt_bias.robustness.watch_hook import trust_falls

FAILURES = [
    failure
    for failure in all_failures((2,))
    if failure.name in ('clean', 'lidar_drop', 'lidar_beams_4', 'camera_drop_all', 'rain_2')
]


def result(nds: float, mean_ap: float, lidar: float | None = None) -> CellResult:
    weights = {}
    if lidar is not None:
        weights = {'a': (lidar, 0.1), 'b': (lidar + 0.1, 0.1), 'c': (lidar + 0.2, 0.2)}
    return CellResult('id', nds, mean_ap, {}, num_samples=4, num_changed=3, weights=weights)


RESULTS = {
    ('base', 'clean'): result(0.5, 0.4),
    ('base', 'lidar_beams_4'): result(0.4, 0.3),
    ('base', 'lidar_drop'): result(0.2, 0.1),
    ('base', 'camera_drop_all'): result(0.3, 0.2),
    ('base', 'rain_2'): result(0.3, 0.4),
    ('biased', 'clean'): result(0.6, 0.5, 0.0),
    ('biased', 'lidar_beams_4'): result(0.5, 0.4, 0.0),
    ('biased', 'lidar_drop'): result(0.4, 0.2, -0.5),
    ('camera', 'clean'): result(0.3, 0.2),
    ('camera', 'camera_drop_all'): result(0.0, 0.0),
}


@pytest.fixture
def table() -> pd.DataFrame:
    return long_table(dict(base='LC', biased='LC', camera='C'), FAILURES, RESULTS)


def row(table: pd.DataFrame, model: str, failure: str) -> pd.Series:
    return table[(table['model'] == model) & (table['failure'] == failure)].iloc[0]


def test_rows_hold_scores_changes_and_what_is_missing(table):
    assert len(table) == 3 * len(FAILURES)
    drop = row(table, 'base', 'lidar_drop')
    assert drop['NDS_change'] == pytest.approx(-0.3)
    assert drop['mAP_change'] == pytest.approx(-0.3)
    assert drop['changed'] == 0.75
    assert math.isnan(row(table, 'base', 'clean')['changed'])
    assert row(table, 'biased', 'rain_2')['status'] == 'missing'
    assert row(table, 'camera', 'lidar_drop')['status'] == 'not applicable'


def test_means_are_over_the_failures_without_the_clean_test(table):
    means = failure_means(table).set_index(['model', 'failure'])
    assert means.loc[('base', 'mean of LiDAR'), 'NDS'] == pytest.approx(0.3)
    assert means.loc[('base', 'mean of cameras'), 'mAP'] == pytest.approx(0.2)
    assert means.loc[('base', 'mean of all failures'), 'NDS'] == pytest.approx(1.2 / 4)
    assert means.loc[('base', 'mean of all failures'), 'mAP'] == pytest.approx(1.0 / 4)
    # A mean with a test missing would be that of another set of failures.
    assert math.isnan(means.loc[('biased', 'mean of all failures'), 'NDS'])
    assert means.loc[('biased', 'mean of LiDAR'), 'NDS'] == pytest.approx(0.45)
    assert ('camera', 'mean of LiDAR') not in means.index


def test_the_table_of_a_score_has_a_column_for_each_model(table):
    scores = score_table(table, 'NDS')
    assert list(scores.columns) == ['base', 'biased', 'camera']
    assert list(scores.index[: len(FAILURES)]) == [failure.name for failure in FAILURES]
    assert scores.loc['lidar_drop'].tolist() == ['0.2000', '0.4000', 'n/a']
    assert scores.loc['rain_2'].tolist() == ['0.3000', '-', '-']
    assert scores.loc['mean of all failures', 'base'] == '0.3000'


def test_trust_that_leaves_the_failed_lidar_is_seen_and_equal_trust_is_not(table):
    router = router_table(table, 'biased')
    assert list(router.index) == ['clean', 'lidar_beams_4', 'lidar_drop']
    assert router.loc['lidar_drop', 'LiDAR'] == '-0.400'
    assert router.loc['lidar_drop', 'shift'] == '-0.500'
    assert router.loc['lidar_drop', 'trust moves'] == 'to the healthy sensor'
    assert router.loc['lidar_beams_4', 'trust moves'] == 'no difference seen'
    assert router.loc['clean', 'trust moves'] == '-'
    assert router_table(table, 'base').empty


def test_the_interval_of_a_shift_is_that_of_student():
    clean = {name: (0.0, 0.0) for name in 'abcd'}
    failed = {'a': (0.1, 0.0), 'b': (0.2, 0.0), 'c': (0.0, -0.3), 'x': (9.0, 0.0)}
    # Mean 0.2, standard deviation 0.1, t(0.975, 2 degrees of freedom) = 4.302653.
    half = 4.302653 * 0.1 / np.sqrt(3)
    assert trust_shift(clean, failed) == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-6)
    mean, low, high = trust_shift(clean, {'a': (0.2, 0.0)})
    assert mean == pytest.approx(0.2) and math.isnan(low) and math.isnan(high)
    assert math.isnan(trust_shift(clean, {})[0])


def test_a_weight_that_is_not_a_number_is_not_left_out_of_the_shift():
    clean = {name: (0.0, 0.0) for name in 'abc'}
    failed = {'a': (0.1, 0.0), 'b': (math.nan, 0.0), 'c': (0.2, 0.0)}
    assert all(map(math.isnan, trust_shift(clean, failed)))
    assert trust_shift({'a': (0.0, 0.0)}, failed)[0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ('ends', 'healthy', 'said'),
    [
        ((-0.1, 0.3), 'L', 'no difference seen'),
        ((0.1, 0.3), 'L', 'to the healthy sensor'),
        ((0.1, 0.3), 'C', 'to the failed sensor'),
        ((-0.3, -0.1), 'C', 'to the healthy sensor'),
        ((0.1, 0.3), '', '-'),
        ((math.nan, math.nan), 'L', '-'),
    ],
)
def test_a_shift_is_said_where_its_interval_leaves_out_zero(ends, healthy, said):
    assert shift_in_words(*ends, healthy) == said


def test_the_report_names_what_is_missing(table, tmp_path):
    sources = dict(base='`a.py`, `a.pth`', biased='`b.py`, `b.pth`', camera='`c.py`, `c.pth`')
    report = markdown_report(table, FAILURES, sources, 'plot.png')
    assert (
        '**Not finished:** biased / camera_drop_all, biased / rain_2, camera / rain_2.' in report
    )
    assert '| lidar_drop' in report
    assert 'rain on images and points, severity 2' in report
    assert 'nan' not in report
    assert '75 %' in report
    save_robustness_plot(tmp_path / 'plot.png', table)
    assert (tmp_path / 'plot.png').stat().st_size > 10_000


def test_trust_falls_where_queries_look_at_what_is_spoiled_alone():
    clean = np.array([[0.5, 0.5, 0.5], [0.2, 0.4, 0.6]])
    failed = np.array([[0.9, 0.9, 0.9], [0.0, 0.4, 0.2]])
    cameras = np.array([[False] * 3, [True, False, True]])
    there, elsewhere = trust_falls(clean, failed, cameras)
    assert there == pytest.approx((0.2 + 0.4) / 2)
    assert elsewhere == pytest.approx(0.0)  # the LiDAR, in which trust rises, did not fail
    both = trust_falls(clean, failed, np.ones((2, 3), dtype=bool))
    assert both[0] == pytest.approx((3 * -0.4 + 0.2 + 0.4) / 6)
    assert math.isnan(both[1])
    assert np.isnan(trust_falls(clean, failed, np.zeros((2, 3), dtype=bool))).all()


def test_what_was_watched_is_averaged_over_samples_and_layers():
    watched = CellResult(
        'id',
        0.5,
        0.4,
        {},
        2,
        2,
        {'a': (0.1, 0.1)},
        {'a': (0.2, math.nan), 'b': (0.4, 0.1)},
        [0.1, 0.3],
    )
    line = row(
        long_table({'m': 'LC'}, FAILURES, {('m', 'lidar_drop'): watched}), 'm', 'lidar_drop'
    )
    assert line['fall_spoiled'] == pytest.approx(0.3)
    assert line['fall_elsewhere'] == pytest.approx(0.1)
    assert line['camera_attention'] == pytest.approx(0.2)
