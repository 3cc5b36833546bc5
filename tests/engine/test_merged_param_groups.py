"""Merged parameter groups train as mmengine's many groups do."""

import copy

import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

from cmt_bias.engine.merged_param_groups import merge_param_groups


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))


def build(model: nn.Module, **options) -> OptimWrapper:
    paramwise = dict(custom_keys={'3.weight': dict(lr_mult=0.1)}, norm_decay_mult=0.0)
    optimizer = dict(type='AdamW', lr=0.01, weight_decay=0.1)
    return build_optim_wrapper(
        model, dict(optimizer=optimizer, paramwise_cfg=paramwise, **options)
    )


def test_one_group_for_each_set_of_settings():
    model = make_model()
    groups = build(model, constructor='MergedParamGroupsConstructor').optimizer.param_groups
    numbers = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [[numbers[id(parameter)] for parameter in group['params']] for group in groups] == [
        ['0.weight', '0.bias', '3.bias'],
        ['1.weight', '1.bias'],
        ['3.weight'],
    ]
    assert [(group['lr'], group['weight_decay']) for group in groups] == [
        (0.01, 0.1),
        (0.01, 0.0),
        (0.001, 0.1),
    ]


def test_training_is_the_same_as_with_a_group_for_each_parameter():
    models = [make_model(), make_model()]
    wrappers = [build(models[0]), build(models[1], constructor='MergedParamGroupsConstructor')]
    assert len(wrappers[0].optimizer.param_groups) == 6
    for step in range(5):
        inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        for model, wrapper in zip(models, wrappers, strict=True):
            wrapper.update_params(model(inputs).square().sum())
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_without_paramwise_options_there_is_one_group():
    wrapper = build_optim_wrapper(
        make_model(),
        dict(
            constructor='MergedParamGroupsConstructor',
            optimizer=dict(type='SGD', lr=0.1),
        ),
    )
    assert len(wrapper.optimizer.param_groups) == 1


def test_given_groups_are_not_changed():
    groups = [{'params': [torch.zeros(1)], 'lr': 1.0}, {'params': [torch.ones(1)], 'lr': 1.0}]
    before = copy.deepcopy(groups)
    assert len(merge_param_groups(groups)) == 1
    assert groups == before
