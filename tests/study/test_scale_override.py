"""An overridden scale is in effect within the context, and nowhere after it."""

import pytest
import torch

from cmt_bias.bias import AttentionBiasGenerator
from cmt_bias.bias.scale import SCALE_GRANULARITIES
from cmt_bias.study.scale_sweep import scale_override

LOW, HIGH = 1.0, 3.0


@pytest.fixture(params=SCALE_GRANULARITIES)
def generator(request) -> AttentionBiasGenerator:
    """A generator whose entries all differ, some beyond its range."""
    made = AttentionBiasGenerator(
        learnable_scale=True,
        scale_granularity=request.param,
        num_layers=3,
        min_scale=LOW,
        max_scale=HIGH,
    )
    with torch.no_grad():
        entries = torch.linspace(0.7, 3.3, made.bias_scale.numel())
        made.bias_scale.copy_(entries.reshape(made.bias_scale.shape))
    return made


def copied_state(generator: AttentionBiasGenerator) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in generator.state_dict().items()}


@pytest.mark.parametrize('scale', [0.0, 2.0, 6.0])
def test_every_entry_is_the_value_also_beyond_the_range(generator, scale):
    before, parameter = copied_state(generator), generator.bias_scale
    with scale_override(generator, scale):
        assert (generator.scale_in_effect() == scale).all()
    assert generator.bias_scale is parameter
    assert all(value.equal(before[name]) for name, value in generator.state_dict().items())


def test_none_leaves_the_learned_scale(generator):
    before = generator.scale_in_effect().clone()
    with scale_override(generator, None):
        assert generator.scale_in_effect().equal(before)


def test_an_error_restores_the_learned_scale(generator):
    before = copied_state(generator)
    with pytest.raises(RuntimeError), scale_override(generator, 6.0):
        raise RuntimeError
    assert all(value.equal(before[name]) for name, value in generator.state_dict().items())
