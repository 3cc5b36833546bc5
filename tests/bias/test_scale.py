"""A clamped parameter that can come back from its bounds."""

import pytest
import torch
from mmengine.model import (
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
)
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from cmt_bias.bias import BiasScale, clamp_with_inward_gradient


@pytest.mark.parametrize(
    ('value', 'gradient', 'expected'),
    [
        (0.5, 1.0, 1.0),
        (0.5, -1.0, -1.0),
        (2.0, 1.0, 1.0),  # at the upper bound, descent leads inwards
        (2.0, -1.0, 0.0),
        (3.0, 1.0, 1.0),
        (3.0, -1.0, 0.0),
        (0.0, -1.0, -1.0),
        (0.0, 1.0, 0.0),
        (-1.0, -1.0, -1.0),
        (-1.0, 1.0, 0.0),
    ],
)
def test_gradient_passes_unless_descent_would_leave_the_range(value, gradient, expected):
    scale = torch.tensor(value, requires_grad=True)
    clamped = clamp_with_inward_gradient(scale, torch.tensor(0.0), torch.tensor(2.0))
    assert clamped == min(max(value, 0.0), 2.0)
    clamped.backward(torch.tensor(gradient))
    assert scale.grad == expected


@pytest.mark.parametrize('outwards', [1.0, -1.0])
@pytest.mark.parametrize(
    'optimizer',
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    ],
    ids=['AdamW', 'SGD with momentum'],
)
def test_scale_returns_from_a_bound_within_two_steps(optimizer, outwards):
    scale = BiasScale(2.0, learnable_scale=True, min_scale=1.0, max_scale=3.0).train()
    optimizer = optimizer(scale.parameters())

    def step(direction: float) -> float:
        scale.project_into_range()
        optimizer.zero_grad()
        (-direction * scale.scale_of_modalities().sum()).backward()
        optimizer.step()
        return float(scale.scale_in_effect().detach())

    for _ in range(50):
        at_bound = step(outwards)
    assert at_bound == (3.0 if outwards > 0 else 1.0)
    inwards = [step(-outwards) for _ in range(2)][-1]
    assert (at_bound - inwards) * outwards > 1e-3


def averages(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Averages of any kind, of buffers as well."""
    settings = dict(interval=1, update_buffers=True)
    return {
        'EMA': ExponentialMovingAverage(model, momentum=0.1, **settings),
        'annealed EMA': MomentumAnnealingEMA(model, momentum=0.1, **settings),
        'SWA': StochasticWeightAverage(model, **settings),
        'EMA of torch': AveragedModel(model, avg_fn=get_ema_avg_fn(0.9), use_buffers=True),
        'SWA of torch': AveragedModel(model, use_buffers=True),
    }


@pytest.mark.parametrize('bounds', [(None, None), (None, 4.0), (0.5, 4.0)], ids=str)
@pytest.mark.parametrize('learnable', [True, False])
def test_scale_and_range_survive_averaging_of_any_kind(bounds, learnable):
    scale = BiasScale(2.5, learnable, 'modality', min_scale=bounds[0], max_scale=bounds[1])
    expected = scale.bounds()
    for name, average in averages(scale).items():
        for _ in range(50):
            average.update_parameters(scale)
        assert average.module.bounds() == pytest.approx(expected), name
        assert average.module.scale_in_effect().tolist() == pytest.approx([2.5, 2.5]), name
        assert all(tensor.isfinite().all() for tensor in average.state_dict().values()), name
        fresh = BiasScale(2.5, learnable, 'modality')
        fresh.load_state_dict(average.module.state_dict())
        assert fresh.bounds() == pytest.approx(expected), name


def test_averages_of_different_ranges_are_a_range_between():
    scale = BiasScale(2.5, min_scale=1.0, max_scale=3.0)
    average = ExponentialMovingAverage(scale, momentum=0.1, interval=1, update_buffers=True)
    average.update_parameters(scale)
    scale.set_scale_range(0.5, None)
    average.update_parameters(scale)
    low, high = average.module.bounds()
    assert 0.5 < low < 1.0 and high == torch.inf


@pytest.mark.parametrize('beyond', [torch.inf, 1e300, 1e30])
def test_a_bound_that_float32_cannot_hold_is_none(beyond):
    scale = BiasScale()
    scale.set_scale_range(-beyond, beyond)
    assert scale.bounds() == (-torch.inf, torch.inf)
    assert scale.scale_range.isfinite().all()
    for low, high in [(beyond, None), (torch.nan, 1.0), (1.0, torch.nan)]:
        with pytest.raises(ValueError, match='must be less than'):
            scale.set_scale_range(low, high)


def test_files_of_earlier_versions_load():
    """They have infinite bounds and axes of another type."""
    state = dict(
        bias_scale=torch.tensor((1.5, 2.0)),
        scale_range=torch.tensor((-torch.inf, 3.0)),
        scale_axes=torch.tensor((False, True)),
    )
    scale = BiasScale(scale_granularity='modality', learnable_scale=True)
    scale.load_state_dict(state)
    assert scale.bounds() == (-torch.inf, 3.0)
    assert scale.scale_in_effect().tolist() == [1.5, 2.0]
    assert scale.scale_range.isfinite().all()
