"""Warnings come when a state begins, not in every row, and again when it comes back."""

import math
from types import SimpleNamespace

import pytest

from cmt_bias.bias.head_lookup import BiasedHead
from cmt_bias.bias.monitor.rules import ENDINGS, RULES, BiasScaleWatch, bound_nearby

from .. import biased_model

PARAMETER = 'pts_bbox_head.attention_bias_generator.bias_scale'
CONFIG = 'model.pts_bbox_head.attention_bias_config'
GOOD = {
    'iteration': 100,
    'epoch': 1,
    'learning_rate': 1e-4,
    'bias_scale/shared': 2.5,
    'bias_scale_grad/shared': 0.1,
    'lidar_mean': 0.1,
    'lidar_std': 0.2,
    'camera_mean': -0.1,
    'camera_std': 0.2,
    'range_low': 0.5,
    'range_high': 4.0,
}
ZERO = dict(lidar_mean=0.0, lidar_std=0.0, camera_mean=0.0, camera_std=0.0)


def watch(
    granularity: str = 'shared',
    travel: float | None = 1.0,
    frozen: bool = False,
    lacks_gradient: bool = False,
    **group: float,
) -> BiasScaleWatch:
    head = biased_model.BiasedHead(
        bias_scale=2.5, learnable_scale=True, scale_granularity=granularity
    )
    head.attention_bias_generator.bias_scale.requires_grad_(not frozen)
    absent = frozen or group.pop('absent', 0)
    optimizer = None if absent else SimpleNamespace(group=group, lacks_gradient=lacks_gradient)
    return BiasScaleWatch(BiasedHead('pts_bbox_head', head), optimizer, travel)


def counts(rows: list[dict], granularity: str = 'shared') -> list[int]:
    """How many warnings each row brings."""
    watching = watch(granularity)
    return [len(watching.check(row)) for row in rows]


def at(scale: float, **others: float) -> dict:
    return GOOD | {'bias_scale/shared': scale} | others


def gradient(value: float | None, **others: float) -> dict:
    return GOOD | {'bias_scale_grad/shared': value} | others


def test_a_good_row_brings_none():
    assert counts([GOOD] * 5) == [0] * 5


def test_every_rule_has_a_name_of_its_own_and_a_remedy():
    names = [*ENDINGS, *(rule.name for rule in RULES)]
    assert len(names) == len(set(names))
    assert all(rule.do for rule in RULES)


def test_a_bound_is_said_on_arrival_and_after_a_real_departure():
    # 3.81 is within 5 % of 4, 3.7 within 10 %: near enough to be noise.
    rows = [at(scale) for scale in (3.7, 3.81, 4.0, 3.7, 3.9, 3.0, 3.9)]
    assert counts(rows) == [0, 1, 0, 0, 0, 0, 1]
    (warning,) = watch().check(at(0.52))
    assert 'bias scale shared is 0.52, within 5% of min_scale=0.5' in warning
    assert f'widen {CONFIG}.min_scale' in warning


def test_a_new_range_is_a_new_bound():
    wider = at(4.0, range_low=0.1, range_high=8.0)
    assert counts([at(4.0), wider, at(4.0)]) == [1, 0, 1]


def test_exact_zeros_belong_to_the_start_and_are_said_only_when_they_last():
    start = gradient(0.0, **ZERO)
    assert counts([start, start, GOOD, start, start, start, start]) == [0, 0, 0, 0, 0, 1, 0]
    watching = watch()
    *_, last = (watching.check(start) for _ in range(3))
    assert 'weight_generator is not trained' in last[0]


def test_zeros_before_the_first_step_are_not_counted():
    """Which comes late where gradients are accumulated, or the first ones overflow."""
    before, start = gradient(None, **ZERO), gradient(0.0, **ZERO)
    assert counts([before] * 5 + [start, start, GOOD]) == [0] * 8


def test_a_zero_gradient_with_weights_is_said_when_it_lasts():
    dropped = gradient(0.0)
    assert counts([dropped] * 4) == [0, 0, 1, 0]
    assert counts([dropped, dropped, GOOD, dropped, dropped]) == [0] * 5


def test_a_gradient_that_a_bound_stops_is_not_missed():
    held = at(4.0, **{'bias_scale_grad/shared': 0.0})
    assert counts([held] * 5) == [1, 0, 0, 0, 0]  # the bound itself


def test_an_entry_without_weights_of_its_own_needs_no_gradient():
    row = GOOD | {
        'bias_scale/lidar': 2.5,
        'bias_scale/camera': 2.5,
        'bias_scale_grad/lidar': 0.1,
        'bias_scale_grad/camera': 0.0,
    }
    assert counts([row | dict(camera_mean=0.0, camera_std=0.0)] * 4, 'modality') == [0] * 4
    assert counts([row] * 4, 'modality') == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ('row', 'what'),
    [
        (at(math.nan), 'value'),
        (gradient(math.inf), 'gradient'),
        (GOOD | dict(lidar_mean=math.nan), 'weights'),
    ],
)
def test_what_is_not_finite_is_said_once(row, what):
    watching = watch()
    (warning,) = watching.check(row)
    assert f'{what} of {PARAMETER} (shared) not finite' in warning
    assert watching.check(row) == []


def test_a_missing_gradient_is_said_once():
    watching = watch(lacks_gradient=True)
    (warning,) = watching.check(gradient(None))
    assert 'AttentionBiasCmtTransformer' in warning and 'learnable_scale=False' in warning
    assert watching.check(gradient(None)) == []


@pytest.mark.parametrize(
    ('scale', 'reason'),
    [(0.1, 'too weak'), (0.49, 'too weak'), (0.51, ''), (5.0, ''), (10.0, 'saturates')],
)
def test_start_values(scale, reason):
    open_range = dict(range_low=-math.inf, range_high=math.inf)
    warnings = watch().check(at(scale, iteration=0, **open_range))
    assert len(warnings) == bool(reason)
    assert all(reason in warning and f'{CONFIG}.bias_scale=2.5' in warning for warning in warnings)
    assert watch().check(at(scale, **open_range)) == []


@pytest.mark.parametrize(
    ('travel', 'said'),
    [
        (0.25, None),
        (None, None),
        (0.05, 'Raise lr_mult 5 times or more'),
        (0.0, 'sums up to 0 over the run'),
    ],
)
def test_a_travel_too_short_names_the_factor_that_is_missing(travel, said):
    warnings = watch(travel=travel).check(GOOD)
    assert len(warnings) == (said is not None)
    assert all(said in warning for warning in warnings)


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (dict(frozen=True), 'is learnable, but frozen'),
        (dict(absent=1), 'no optimizer has it'),
        (dict(weight_decay=0.01), 'Weight decay of 0.01 pulls'),
    ],
)
def test_an_optimizer_that_does_not_move_it_or_decays_it(settings, said):
    (warning,) = watch(**settings).check(GOOD)
    assert said in warning


def test_bounds_nearby():
    assert bound_nearby(3.81, 0.5, 4.0) == 'max_scale'
    assert bound_nearby(3.79, 0.5, 4.0) == ''
    assert bound_nearby(0.02, 0.0, 4.0) == 'min_scale'
    assert bound_nearby(1.0, 1.0, 1.02) == 'min_scale'
    assert bound_nearby(1e9, -math.inf, math.inf) == ''
