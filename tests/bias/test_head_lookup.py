"""The biased head is found by what it has, below any wrapper, and named for users."""

import pytest
from mmengine.model import MMDistributedDataParallel
from torch import nn

from cmt_bias.bias.head_lookup import find_biased_head

from .biased_model import BiasedHead, BiasedModel

SETTINGS = dict(bias_scale=2.5, learnable_scale=True, scale_granularity='modality')


def test_the_head_is_named_as_in_the_state_dict_and_in_the_config():
    model = BiasedModel(scale_granularity='modality')
    found = find_biased_head(model, 'SomeHook')

    assert found.head is model.pts_bbox_head
    scale = model.state_dict(keep_vars=True)[found.scale_name]
    assert found.generator.bias_scale is scale
    assert found.config == 'model.pts_bbox_head.attention_bias_config'


def test_a_head_that_is_the_model_has_no_prefix():
    found = find_biased_head(BiasedHead(**SETTINGS), 'SomeHook')
    assert found.scale_name == 'attention_bias_generator.bias_scale'
    assert found.config == 'model.attention_bias_config'


def test_wrappers_of_distributed_training_are_looked_through():
    model = BiasedModel()
    wrapped = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = model
    assert find_biased_head(wrapped, 'SomeHook').name == 'pts_bbox_head'


@pytest.mark.parametrize('count', [0, 2])
def test_none_and_several_are_refused(count):
    model = nn.ModuleDict({f'head{index}': BiasedHead(**SETTINGS) for index in range(count)})
    names = 'head0, head1' if count else 'none'
    message = f"SomeHook needs one .*: {names}. .*type='AttentionBiasCmtHead'"
    with pytest.raises(ValueError, match=message):
        find_biased_head(model, 'SomeHook')
