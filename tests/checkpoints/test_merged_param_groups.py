"""Merged parameter groups train as mmengine's many groups do."""

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from cmt_bias.checkpoints.safe_loading import CheckpointError


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))


def build(model: nn.Module, fused: bool | None = None, **options) -> OptimWrapper:
    paramwise = dict(custom_keys={'3.weight': dict(lr_mult=0.1)}, norm_decay_mult=0.0)
    optimizer = dict(type='AdamW', lr=0.01, weight_decay=0.1, fused=fused)
    return build_optim_wrapper(
        model, dict(optimizer=optimizer, paramwise_cfg=paramwise, **options)
    )


@pytest.mark.skipif(torch.__version__ < '2.4', reason='cannot fuse on a CPU')
@pytest.mark.parametrize(
    ('version', 'fused'), [('2.1.2', None), ('2.4.0', True), ('2.13.0', True)]
)
def test_where_torch_cannot_fuse_on_a_cpu_nothing_is_fused(version, fused, monkeypatch):
    monkeypatch.setattr(torch, '__version__', torch.torch_version.TorchVersion(version))
    wrapper = build(make_model(), fused=True, constructor='MergedParamGroupsConstructor')
    assert wrapper.optimizer.defaults['fused'] is fused


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


class SmallModel(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layers = make_model()

    def forward(self, inputs, mode):
        return {'loss': self.layers(torch.stack(inputs)).square().sum()}


def train(work_dir, max_epochs: int, constructor: str, resume: bool = False) -> None:
    paramwise = dict(custom_keys={'layers.3.weight': dict(lr_mult=0.1)})
    Runner(
        model=SmallModel(),
        work_dir=str(work_dir),
        experiment_name=f'{work_dir.name}_{max_epochs}_{constructor}',
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(4))] * 2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=1,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=0.01),
            paramwise_cfg=paramwise,
            constructor=constructor,
        ),
        default_hooks=dict(checkpoint=dict(type='ResumableCheckpointHook', interval=1)),
        default_scope='mmdet3d',
        resume=resume,
    ).train()


def test_run_with_other_groups_is_not_resumed_and_the_error_says_how(tmp_path):
    train(tmp_path, 1, 'DefaultOptimWrapperConstructor')
    with pytest.raises(CheckpointError) as caught:
        train(tmp_path, 2, 'MergedParamGroupsConstructor', resume=True)
    assert "has 2 parameter groups, the checkpoint's has 6" in str(caught.value)
    train(tmp_path, 2, 'DefaultOptimWrapperConstructor', resume=True)
    assert (tmp_path / 'epoch_2.pth').exists()
