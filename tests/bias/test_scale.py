"""A clamped parameter that can come back from its bounds."""

import pytest
import torch

from cmt_bias.bias import AttentionBiasGenerator, clamp_with_inward_gradient


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
    generator = AttentionBiasGenerator(2.0, learnable_scale=True, min_scale=1.0, max_scale=3.0)
    generator.train()
    optimizer = optimizer(generator.parameters())
    points = torch.full((1, 1, 3), 0.5)
    weight = torch.ones(1, 1)

    def step(direction: float) -> float:
        bias = generator(weight, weight, points, None, None, (5, 5), None, [0, 0, 0, 1, 1, 1])
        optimizer.zero_grad()
        (-direction * bias.values.sum()).backward()
        optimizer.step()
        return float(generator.scale_in_effect().detach())

    for _ in range(50):
        at_bound = step(outwards)
    assert at_bound == (3.0 if outwards > 0 else 1.0)
    inwards = [step(-outwards) for _ in range(2)][-1]
    assert (at_bound - inwards) * outwards > 1e-3
