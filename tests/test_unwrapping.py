"""Models are seen through their wrappers, and so are weights and configs."""

from collections import OrderedDict

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel, BaseTTAModel, MMSeparateDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from cmt_bias.unwrapping import unwrapped, unwrapped_config, unwrapped_weights


class Detector(BaseModel):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return inputs


class TwoViews(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


@MODEL_WRAPPERS.register_module()
class WrapperOfAUser(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_model_is_found_in_any_order_of_wrappers():
    model = Detector()
    wrapped = [
        model,
        TwoViews(model),
        torch.compile(model),
        nn.DataParallel(model),
        WrapperOfAUser(TwoViews(torch.compile(model))),
        torch.compile(WrapperOfAUser(model)),
    ]
    assert all(unwrapped(one) is model for one in wrapped)
    assert issubclass(MMSeparateDistributedDataParallel, nn.Module)


def test_model_with_a_part_called_module_is_no_wrapper():
    model = nn.Module()
    model.module = nn.Linear(1, 1)
    assert unwrapped(model) is model


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
