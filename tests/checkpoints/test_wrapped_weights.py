"""Weights and configs of a model are found in those of its wrappers."""

from collections import OrderedDict

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel, BaseTTAModel
from torch import nn

from cmt_bias.checkpoints.safe_loading import CheckpointError
from cmt_bias.problem import Problem
from cmt_bias.runs.checkpoint_check import check_tested_weights
from cmt_bias.unwrapping import unwrapped, unwrapped_config, unwrapped_weights


class Detector(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return inputs


class TwoViews(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


WRAPPERS = {
    'none': lambda model: model,
    'test time augmentation': TwoViews,
    'compiled': torch.compile,
    'parallel': nn.DataParallel,
    'parallel test time augmentation': lambda model: nn.DataParallel(TwoViews(model)),
}


def test_model_with_a_part_called_module_is_no_wrapper():
    model = nn.Module()
    model.module = nn.Linear(1, 1)
    assert unwrapped(model) is model


@pytest.mark.parametrize('saved_by', ['none', 'compiled', 'parallel'])
@pytest.mark.parametrize('tested', WRAPPERS)
def test_checkpoint_of_any_wrapper_fits_the_model_in_any_other(tested, saved_by, tmp_path):
    path = str(tmp_path / 'a.pth')
    torch.save({'state_dict': WRAPPERS[saved_by](Detector()).state_dict()}, path)
    assert check_tested_weights(WRAPPERS[tested](Detector()), path) == []


def test_checkpoint_with_nan_is_named_before_a_test(tmp_path):
    model, path = Detector(), str(tmp_path / 'nan.pth')
    nn.init.constant_(model.layer.bias, float('nan'))
    torch.save({'state_dict': model.state_dict()}, path)
    with pytest.raises(CheckpointError, match=r'holds NaN in layer\.bias'):
        check_tested_weights(Detector(), path)


def test_incomplete_checkpoint_is_a_problem_of_a_test(tmp_path):
    path = str(tmp_path / 'half.pth')
    torch.save({'state_dict': {'layer.bias': torch.ones(2)}}, path)
    (problem,) = check_tested_weights(TwoViews(Detector()), path)
    assert isinstance(problem, Problem) and 'layer.weight' in problem.what


def test_weights_keep_their_order_and_lose_the_names_of_wrappers():
    weights = OrderedDict([('module._orig_mod.b.weight', 1), ('module._orig_mod.a', 2)])
    weights._metadata = {'': {}, 'module': {}, 'module._orig_mod.b': {'version': 2}}
    plain = unwrapped_weights(weights)
    assert list(plain.items()) == [('b.weight', 1), ('a', 2)]
    assert plain._metadata['b'] == {'version': 2}
    assert unwrapped_weights(plain) is plain


def test_config_of_the_model_is_found_in_that_of_a_wrapper():
    model = ConfigDict(type='CmtDetector', img_backbone=dict(type='ResNet'))
    wrapped = ConfigDict(type='TwoViews', module=dict(type='Other', module=model))
    assert unwrapped_config(wrapped) == model
    assert unwrapped_config(model) is model
