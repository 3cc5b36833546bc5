"""What the end of a run says about the scale."""

import math
from dataclasses import replace

import pytest

from cmt_bias.bias.monitor.history import BiasScaleRecord
from cmt_bias.bias.monitor.reading import read_bias_scale, read_drift


def run_with(scales: list[float], learning_rate: float = 1e-4) -> list[BiasScaleRecord]:
    """A row each 100 iterations."""
    return [
        BiasScaleRecord(100 * row, 1, (scale,), (-math.inf, math.inf), learning_rate)
        for row, scale in enumerate(scales)
    ]


@pytest.mark.parametrize(
    ('last', 'reading'),
    [
        (3.6, 'above 3.5, stronger modulation was wanted'),
        (3.5, 'between 1.5 and 3.5, the usual strength'),
        (1.5, 'between 1.5 and 3.5, the usual strength'),
        (1.4, 'below 1.5, the weights are of little use'),
        (math.nan, 'not finite'),
    ],
)
def test_the_last_value_is_read(last, reading):
    (line,) = read_bias_scale(run_with([2.5, last]), ['shared'])
    assert line.startswith(f'shared 2.5 -> {last:.3g}: {reading}')


def test_each_entry_has_a_line():
    rows = [
        replace(record, scales=(record.scales[0], 1.0)) for record in run_with([2.5] * 10 + [4.0])
    ]
    lidar, camera = read_bias_scale(rows, ['lidar', 'camera'])
    assert lidar.startswith('lidar 2.5 -> 4: above') and camera.startswith('camera 1 -> 1: below')


def test_a_scale_pushed_one_way_is_still_drifting():
    # Adam's steps all agree: 100 x 1e-4 from row to row.
    rising = run_with([2.5 + 0.01 * row for row in range(51)])
    assert read_drift(rising, 0, 1, True) == (
        'still drifting (in the last fifth of the run +0.1, 100% of the 0.1 its learning rate '
        'allowed)'
    )


def test_a_scale_pushed_to_and_fro_has_settled():
    rows = run_with([2.5 + 0.01 * min(row, 20) + 0.005 * (row % 2) for row in range(51)])
    assert read_drift(rows, 0, 1, True).startswith('settled (in the last fifth')


def test_little_movement_at_a_small_rate_is_drift_all_the_same():
    rows = run_with([2.5 + 1e-4 * row for row in range(51)], learning_rate=1e-6)
    assert read_drift(rows, 0, 1, True).startswith('still drifting')


def test_accumulated_steps_are_fewer_steps():
    rows = run_with([2.5 + 0.002 * row for row in range(51)])
    assert read_drift(rows, 0, 1, True).startswith('settled')
    assert read_drift(rows, 0, 4, True).startswith('still drifting')


@pytest.mark.parametrize(('flat_from', 'state'), [(20, 'settled'), (50, 'still drifting')])
def test_optimizers_unlike_adam_are_measured_by_the_span(flat_from, state):
    rows = run_with([math.exp(min(row, flat_from) / 10) for row in range(51)], learning_rate=1.0)
    assert read_drift(rows, 0, 1, False).startswith(state)


def test_too_few_rows_say_nothing_about_drift():
    assert 'too few rows (5)' in read_drift(run_with([2.5] * 5), 0, 1, True)
    assert read_bias_scale([], ['shared']) == []


def test_no_learning_rate_and_no_movement():
    assert read_drift(run_with([2.5] * 50, learning_rate=0.0), 0, 1, True) == 'it did not move'


def test_a_bound_is_named():
    rows = [replace(record, scale_range=(0.5, 4.0)) for record in run_with([2.5, 3.9])]
    (line,) = read_bias_scale(rows, ['shared'])
    assert 'held by max_scale=4, so a wider range may lead it further' in line
