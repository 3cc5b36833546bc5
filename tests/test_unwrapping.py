"""The model is found inside all that is put around it."""

import itertools

import pytest
import torch
from mmengine.model import BaseModel, BaseTTAModel, ExponentialMovingAverage
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cmt_bias.unwrapping import unwrapped


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor') -> torch.Tensor:
        return self.layer(inputs)


class Augmented(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


WRAPPERS = {
    'data parallel': nn.DataParallel,
    'test time augmentation': Augmented,
    'average of mmengine': ExponentialMovingAverage,
    'average of torch': AveragedModel,
    'compiled': torch.compile,
}


NOT_POSSIBLE = [
    ('compiled', 'compiled'),
    # mmengine's augmentation is put around models with a test_step, which these hide
    ('test time augmentation', 'data parallel'),
    ('test time augmentation', 'average of mmengine'),
    ('test time augmentation', 'average of torch'),
]


@pytest.mark.parametrize(
    ('outer', 'inner'), [p for p in itertools.product(WRAPPERS, WRAPPERS) if p not in NOT_POSSIBLE]
)
def test_the_model_is_seen_through_any_two_wrappers(outer, inner):
    model = Model()
    wrapped = WRAPPERS[outer](WRAPPERS[inner](model))
    found = unwrapped(wrapped)
    assert type(found) is Model
    assert found.state_dict().keys() == model.state_dict().keys()


def test_a_model_that_is_not_wrapped_is_itself():
    model = Model()
    assert unwrapped(model) is model
