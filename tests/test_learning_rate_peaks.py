"""Peak learning rates against closed forms and against a schedule that is stepped through."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.optim import Optimizer

from cmt_bias.learning_rate_peaks import (
    peak_learning_rates,
    play_schedule,
    schedules_of,
    training_length,
    unforeseeable,
)

BASE = 1e-4


def rates_of(group: int, optimizer: Optimizer, schedulers: list, *lengths: int) -> list[float]:
    """Learning rate of a group in each iteration to come."""
    rates, kinds = play_schedule(optimizer, schedulers, *lengths)
    return rates[:, kinds[group]].tolist()


def model_and_optimizer(multipliers: list[float]) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Layers with one parameter each, every one a group of its own."""
    model = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in multipliers)
    groups = [
        dict(params=list(layer.parameters()), lr=BASE * multiplier)
        for layer, multiplier in zip(model, multipliers, strict=True)
    ]
    return model, torch.optim.AdamW(groups, lr=BASE)


def build_schedulers(
    configs: list[dict], optimizer: Optimizer | OptimWrapper, epoch_length: int, max_epochs: int
) -> list[_ParamScheduler]:
    """Build ``param_scheduler`` of a config as mmengine's runner does in epoch-based training."""
    schedulers = []
    for config in copy.deepcopy(configs):
        by_epoch = config.get('by_epoch', True)
        config.setdefault('end', max_epochs if by_epoch else max_epochs * epoch_length)
        defaults = dict(optimizer=optimizer, epoch_length=epoch_length)
        schedulers.append(PARAM_SCHEDULERS.build(config, default_args=defaults))
    return schedulers


def cyclic(end: int, turn: int, **minima) -> list[dict]:
    """Up to the first ``turn`` epochs, down until ``end``, with iterations as steps."""
    kind = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
    up, down = ({key: value[i] for key, value in minima.items()} for i in (0, 1))
    return [
        dict(kind, begin=0, end=turn, T_max=turn, **up),
        dict(kind, begin=turn, end=end, T_max=end - turn, **down),
    ]


def cosine_peak(ratio: float, steps: int) -> float:
    """Factor on the base rate at the last of ``steps`` steps of a rise to ``ratio``."""
    return ratio + (1 - ratio) / 2 * (1 + math.cos(math.pi * (steps - 1) / steps))


@given(
    multipliers=st.lists(st.sampled_from([0.01, 0.1, 0.5, 1.0, 3.0]), min_size=1, max_size=4),
    ratio=st.floats(1.5, 20),
    turn=st.integers(1, 4),
    rest=st.integers(1, 4),
    epoch_length=st.integers(2, 12),
)
def test_ratio_schedule_raises_every_group_by_the_same_closed_form(
    multipliers, ratio, turn, rest, epoch_length
):
    model, optimizer = model_and_optimizer(multipliers)
    configs = cyclic(turn + rest, turn, eta_min_ratio=(ratio, 1e-4))
    schedulers = build_schedulers(configs, optimizer, epoch_length, turn + rest)

    max_iters = (turn + rest) * epoch_length
    peaks = peak_learning_rates(model, optimizer, schedulers, max_iters, epoch_length)

    gain = max(1.0, cosine_peak(ratio, turn * epoch_length))
    assert [peak.gain for peak in peaks] == pytest.approx([gain] * len(peaks), rel=1e-6)
    assert sorted(peak.base for peak in peaks) == pytest.approx(
        sorted({BASE * multiplier for multiplier in multipliers})
    )


def test_absolute_eta_min_drives_every_group_to_one_rate():
    model, optimizer = model_and_optimizer([1.0, 0.1])
    schedulers = build_schedulers(cyclic(5, 2, eta_min=(BASE * 8, BASE * 1e-4)), optimizer, 50, 5)

    peaks = peak_learning_rates(model, optimizer, schedulers, max_iters=250, epoch_length=50)

    # base + (8 BASE - base) (1 - cos) / 2 at the last step of the rise: all near 8 BASE
    rise = (1 - math.cos(math.pi * 99 / 100)) / 2
    expected = {base: base + (8 * BASE - base) * rise for base in (BASE, 0.1 * BASE)}
    assert {peak.base: peak.peak for peak in peaks} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    'configs',
    [
        [dict(type='MultiStepLR', milestones=[1, 2], gamma=0.1)],
        [
            dict(type='LinearLR', start_factor=0.25, begin=0, end=7, by_epoch=False),
            dict(type='MultiStepLR', milestones=[2], gamma=0.1),
        ],
        [dict(type='OneCycleLR', eta_max=1e-2, total_steps=30, by_epoch=False)],
        [
            dict(type='CosineAnnealingMomentum', eta_min_ratio=0.8),
            dict(type='ExponentialLR', gamma=0.9),
        ],
        cyclic(3, 1, eta_min_ratio=(6, 1e-4)),
    ],
    ids=['steps', 'warm-up', 'one cycle', 'with momentum', 'cyclic'],
)
def test_peaks_are_those_of_a_real_run(configs):
    epochs, epoch_length = 3, 10
    multipliers = [1.0, 0.1, 0.1]
    model, optimizer = model_and_optimizer(multipliers)
    schedulers = build_schedulers(configs, optimizer, epoch_length, epochs)
    peaks = peak_learning_rates(model, optimizer, schedulers, epochs * epoch_length, epoch_length)

    largest = [0.0] * len(multipliers)
    for iteration in range(1, epochs * epoch_length + 1):
        largest = [
            max(old, group['lr'])
            for old, group in zip(largest, optimizer.param_groups, strict=True)
        ]
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or iteration % epoch_length == 0:
                scheduler.step()

    by_name = {name: peak.peak for peak in peaks for name in peak.parameters}
    names = [name for name, _ in model.named_parameters()]
    assert [by_name[name] for name in names] == pytest.approx(largest, rel=1e-9)


def test_playing_the_schedule_changes_nothing():
    model, optimizer = model_and_optimizer([1.0, 0.1])
    schedulers = build_schedulers(cyclic(4, 2, eta_min_ratio=(6, 1e-4)), optimizer, 5, 4)
    rates = [group['lr'] for group in optimizer.param_groups]
    states = [scheduler.state_dict() for scheduler in schedulers]

    peak_learning_rates(model, optimizer, schedulers, max_iters=20, epoch_length=5)

    assert [group['lr'] for group in optimizer.param_groups] == rates
    assert [scheduler.state_dict() for scheduler in schedulers] == states


def test_without_schedule_the_peak_is_the_base_rate_and_names_are_kept():
    model, optimizer = model_and_optimizer([1.0, 0.1, 1.0])

    peaks = peak_learning_rates(model, optimizer, [], max_iters=3, epoch_length=3)

    assert [(peak.base, peak.peak, peak.parameters) for peak in peaks] == [
        (BASE, BASE, ('0.weight', '2.weight')),
        (BASE * 0.1, BASE * 0.1, ('1.weight',)),
    ]


@given(
    multipliers=st.lists(st.sampled_from([0.1, 1.0, 3.0]), min_size=1, max_size=3),
    turn=st.integers(1, 3),
    rest=st.integers(1, 3),
    epoch_length=st.integers(2, 6),
    of_wrapper=st.booleans(),
)
def test_rates_of_a_group_are_those_of_a_schedule_that_is_stepped_through(
    multipliers, turn, rest, epoch_length, of_wrapper
):
    _, optimizer = model_and_optimizer(multipliers)
    configs = cyclic(turn + rest, turn, eta_min_ratio=(6, 1e-4))
    scheduled = OptimWrapper(optimizer) if of_wrapper else optimizer
    schedulers = build_schedulers(configs, scheduled, epoch_length, turn + rest)
    max_iters = (turn + rest) * epoch_length
    rates = [
        rates_of(index, optimizer, schedulers, max_iters, epoch_length)
        for index in range(len(multipliers))
    ]

    for iteration in range(max_iters):
        for index, group in enumerate(optimizer.param_groups):
            assert rates[index][iteration] == pytest.approx(group['lr'], rel=1e-9)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def test_schedules_of_another_optimizer_are_left_out():
    _, optimizer = model_and_optimizer([1.0])
    _, other = model_and_optimizer([1.0])
    schedulers = build_schedulers(cyclic(2, 1, eta_min_ratio=(6, 1)), other, 3, 2)
    assert rates_of(0, optimizer, schedulers, 6, 3) == [BASE] * 6


@pytest.mark.parametrize('of_wrapper', [False, True])
def test_a_schedule_that_the_results_decide_is_named_and_left_out(of_wrapper):
    model, optimizer = model_and_optimizer([1.0])
    scheduled = OptimWrapper(optimizer) if of_wrapper else optimizer
    configs = [
        dict(type='ReduceOnPlateauLR', monitor='loss'),
        dict(type='ReduceOnPlateauMomentum', monitor='loss'),
        dict(type='LinearLR', start_factor=0.5, begin=0, end=3, by_epoch=False),
    ]
    schedulers = build_schedulers(configs, scheduled, 3, 2)
    assert unforeseeable(schedules_of(optimizer, schedulers)) == ['ReduceOnPlateauLR']
    (peak,) = peak_learning_rates(model, optimizer, schedulers, 6, 3)
    assert peak.peak == pytest.approx(BASE)
    assert unforeseeable(schedules_of(optimizer, schedulers[1:])) == []
    assert rates_of(0, optimizer, schedulers, 6, 3) == pytest.approx(
        [BASE * factor for factor in (0.5, 0.75, 1, 1, 1, 1)]
    )


def test_a_schedule_that_ends_before_the_training_is_warned_about(caplog):
    """mmengine's OneCycleLR raises in the step after its last one."""
    model, optimizer = model_and_optimizer([1.0])
    one_cycle = dict(type='OneCycleLR', eta_max=1e-2, total_steps=4, by_epoch=False)
    schedulers = build_schedulers([one_cycle], optimizer, 10, 1)
    (peak,) = peak_learning_rates(model, optimizer, schedulers, 10, 10)
    assert 0.5e-2 < peak.peak <= 1e-2
    assert 'OneCycleLR' in caplog.text
    assert 'The schedule will end the training in iteration' in caplog.text


def loop_over(kind: type, dataloader: object, **lengths: int) -> SimpleNamespace:
    """A runner with a training loop of some kind, not started."""
    loop = kind.__new__(kind)
    loop.dataloader = dataloader
    loop._max_iters = lengths.get('max_iters', 0)
    return SimpleNamespace(train_loop=loop)


def test_length_of_a_training():
    epochs = loop_over(EpochBasedTrainLoop, range(5), max_iters=20)
    assert training_length(epochs) == (20, 5)
    # It is one epoch to mmengine, whose schedules by epoch step at its end.
    iterations = loop_over(IterBasedTrainLoop, range(5), max_iters=7)
    assert training_length(iterations) == (7, 7)
    endless = loop_over(EpochBasedTrainLoop, iter([]), max_iters=20)
    assert training_length(endless) is None
    assert training_length(SimpleNamespace(train_loop=None)) is None


def test_schedule_that_is_under_way_has_its_peak_from_its_start_and_its_rates_from_there_on():
    model, optimizer = model_and_optimizer([1.0, 0.1])
    configs = cyclic(5, 2, eta_min_ratio=(8, 1e-4))
    configs.insert(0, dict(type='LinearLR', start_factor=0.1, end=7, by_epoch=False))
    schedulers = build_schedulers(configs, optimizer, 10, 5)
    peaks = peak_learning_rates(model, optimizer, schedulers, 50, 10)
    at_start = rates_of(1, optimizer, schedulers, 50, 10)
    for _ in range(13):
        for scheduler in schedulers:
            scheduler.step()
    rest = rates_of(1, optimizer, schedulers, 50 - 13, 10)
    assert rest == pytest.approx(at_start[13:], rel=1e-9)
    assert peak_learning_rates(model, optimizer, schedulers, 50, 10) == peaks
