"""Warnings come when a state begins, not in every row, and again when it comes back."""

import math
from dataclasses import replace

import pytest

from cmt_bias.bias.monitor.diagnosis import (
    BiasScaleWatch,
    bound_nearby,
    start_warnings,
    travel_warnings,
)
from cmt_bias.bias.monitor.history import BiasScaleRecord
from cmt_bias.bias.monitor.probes import WeightStatistics

KEY = 'model.pts_bbox_head.attention_bias_config.bias_scale'
GOOD = BiasScaleRecord(
    iteration=100,
    epoch=1,
    scales=(2.5,),
    scale_range=(0.5, 4.0),
    learning_rate=1e-4,
    gradients=(0.1,),
    weights=WeightStatistics(0.1, 0.2, -0.1, 0.2),
)
ZERO = WeightStatistics(0.0, 0.0, 0.0, 0.0)


def watch(names: tuple[str, ...] = ('shared',)) -> BiasScaleWatch:
    return BiasScaleWatch('pts_bbox_head.attention_bias_generator.bias_scale', names, KEY)


def counts(rows: list[BiasScaleRecord], names: tuple[str, ...] = ('shared',)) -> list[int]:
    """How many warnings each row brings."""
    watching = watch(names)
    return [len(watching.check(row)) for row in rows]


def at(*scales: float) -> BiasScaleRecord:
    return replace(GOOD, scales=scales)


def test_a_good_row_brings_none():
    assert counts([GOOD] * 5) == [0] * 5


def test_a_bound_is_said_on_arrival_and_after_a_real_departure():
    # 3.81 is within 5 % of 4, 3.7 within 10 %: near enough to be noise.
    assert counts([at(3.7), at(3.81), at(4.0), at(3.7), at(3.9), at(3.0), at(3.9)]) == [
        *(0, 1, 0, 0, 0),
        *(0, 1),
    ]
    (warning,) = watch().check(at(0.52))
    assert 'bias scale shared is 0.52, within 5% of min_scale=0.5' in warning
    assert 'widen model.pts_bbox_head.attention_bias_config.min_scale' in warning


def test_a_new_range_is_a_new_bound():
    wider = replace(at(4.0), scale_range=(0.1, 8.0))
    assert counts([at(4.0), wider, at(4.0)]) == [1, 0, 1]


def test_exact_zeros_belong_to_the_start_and_are_said_only_when_they_last():
    start = replace(GOOD, weights=ZERO, gradients=(0.0,))
    assert counts([start, start, GOOD, start, start, start, start]) == [0, 0, 0, 0, 0, 1, 0]
    watching = watch()
    *_, last = (watching.check(start) for _ in range(3))
    assert 'weight_generator is not trained' in last[0]


def test_a_zero_gradient_with_weights_is_said_when_it_lasts():
    dropped = replace(GOOD, gradients=(0.0,))
    assert counts([dropped, dropped, dropped, dropped]) == [0, 0, 1, 0]
    assert counts([dropped, dropped, GOOD, dropped, dropped]) == [0] * 5


def test_a_gradient_that_a_bound_stops_is_not_missed():
    held = replace(at(4.0), gradients=(0.0,))
    assert counts([held] * 5) == [1, 0, 0, 0, 0]  # the bound itself


def test_an_entry_without_weights_of_its_own_needs_no_gradient():
    row = replace(
        GOOD,
        scales=(2.5, 2.5),
        gradients=(0.1, 0.0),
        weights=replace(GOOD.weights, camera_mean=0.0, camera_std=0.0),
    )
    assert counts([row] * 4, ('lidar', 'camera')) == [0] * 4
    assert counts([replace(row, weights=GOOD.weights)] * 4, ('lidar', 'camera')) == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ('row', 'what'),
    [
        (at(math.nan), 'value'),
        (replace(GOOD, gradients=(math.inf,)), 'gradient'),
        (replace(GOOD, weights=replace(GOOD.weights, lidar_mean=math.nan)), 'weights'),
    ],
)
def test_what_is_not_finite_is_said_once(row, what):
    watching = watch()
    (warning,) = watching.check(row)
    assert f'{what} of pts_bbox_head.attention_bias_generator.bias_scale not finite' in warning
    assert watching.check(row) == []


def test_a_missing_gradient_is_said_once():
    watching = watch()
    (warning,) = watching.check(replace(GOOD, gradients=None), gradient_is_missing=True)
    assert 'AttentionBiasCmtTransformer' in warning and 'learnable_scale=False' in warning
    assert watching.check(replace(GOOD, gradients=None), gradient_is_missing=True) == []


@pytest.mark.parametrize(
    ('scale', 'reason'),
    [(0.1, 'too weak'), (0.49, 'too weak'), (0.5, ''), (5.0, ''), (10.0, 'saturates')],
)
def test_start_values(scale, reason):
    warnings = start_warnings(['shared'], [scale], KEY)
    assert len(warnings) == bool(reason)
    assert all(reason in warning and f'{KEY}=2.5' in warning for warning in warnings)


def test_a_travel_too_short_names_the_factor_that_is_missing():
    assert travel_warnings('bias_scale', 0.25) == []
    (short,) = travel_warnings('bias_scale', 0.05)
    assert 'Raise lr_mult about 5 times or more' in short
    (none,) = travel_warnings('bias_scale', 0.0)
    assert 'sums up to 0 over the run' in none


def test_bounds_nearby():
    assert bound_nearby(3.81, (0.5, 4.0)) == ('max_scale', 4.0)
    assert bound_nearby(3.79, (0.5, 4.0)) is None
    assert bound_nearby(0.02, (0.0, 4.0)) == ('min_scale', 0.0)
    assert bound_nearby(1.0, (1.0, 1.02)) == ('min_scale', 1.0)
    assert bound_nearby(1e9, (-math.inf, math.inf)) is None
