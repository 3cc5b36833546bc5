"""State of the model survives averaging, of any kind and of buffers too."""

import copy

import pytest
import torch
from mmengine.model import (
    BaseAveragedModel,
    ExponentialMovingAverage,
    MomentumAnnealingEMA,
    StochasticWeightAverage,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cmt_bias.bias.scale import BiasScale
from cmt_bias.unwrapping import unwrapped

AVERAGES = {
    'exponential': lambda model: ExponentialMovingAverage(model, update_buffers=True),
    'annealed': lambda model: MomentumAnnealingEMA(model, update_buffers=True),
    'stochastic': lambda model: StochasticWeightAverage(model, update_buffers=True),
    'of torch': lambda model: AveragedModel(model, use_buffers=True),
}


@pytest.mark.parametrize('kind', AVERAGES)
@pytest.mark.parametrize(
    'settings',
    [
        {},
        {'max_scale': 4.0},
        {'learnable_scale': True, 'min_scale': 0.0},
        {'learnable_scale': True, 'scale_granularity': 'layer_modality', 'num_layers': 2},
    ],
)
def test_average_of_an_unchanged_scale_is_that_scale(kind, settings):
    scale = BiasScale(2.5, **settings)
    average = AVERAGES[kind](scale)
    for _ in range(5):
        average.update_parameters(scale)
    for key, value in scale.state_dict().items():
        torch.testing.assert_close(unwrapped(average).state_dict()[key], value, equal_nan=False)
    assert unwrapped(average).bounds() == scale.bounds()
    torch.testing.assert_close(unwrapped(average).scale_in_effect(), scale.scale_in_effect())


@pytest.mark.parametrize('kind', AVERAGES)
def test_average_is_seen_through_alone_and_in_other_wrappers(kind):
    model = nn.Linear(1, 1)
    average = AVERAGES[kind](copy.deepcopy(model))
    assert isinstance(average, (BaseAveragedModel, AveragedModel))
    assert type(unwrapped(average)) is nn.Linear
    assert type(unwrapped(nn.DataParallel(torch.compile(average)))) is nn.Linear
