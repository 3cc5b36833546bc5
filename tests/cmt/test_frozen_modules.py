"""Frozen parts stay as they are in real training runs, on one process and on two."""

import os
from pathlib import Path

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import multiprocessing, nn
from torch.utils.data import Dataset

import cmt_bias.checkpoints.safe_loading  # noqa: F401  # lets runners resume
from cmt_bias.cmt.frozen_modules import FrozenModulesMixin

CONFIGS = Path(__file__).parents[2] / 'configs' / 'cmt'
FROZEN = ['backbone', 'head.shared']


class Vectors(Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return dict(inputs=torch.tensor([index, 1.0, -index]))


def block(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


class SmallDetector(FrozenModulesMixin, BaseModel):
    def __init__(self, frozen_modules: list[str] = FROZEN) -> None:
        super().__init__()
        self.backbone = block(3)
        self.neck = block(4)
        self.head = nn.ModuleDict(dict(shared=block(4), boxes=block(4)))
        self.freeze(frozen_modules)

    def forward(self, inputs: torch.Tensor, mode: str) -> dict[str, torch.Tensor]:
        features = self.neck(self.backbone(inputs))
        return dict(loss=self.head['boxes'](self.head['shared'](features)).square().mean())


def make_runner(work_dir: Path, model: nn.Module, max_epochs: int = 2, **settings) -> Runner:
    return Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=Vectors(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(
            optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.1),
            paramwise_cfg=dict(custom_keys={'head.boxes': dict(lr_mult=0.8)}),
        ),
        experiment_name=f'{work_dir.name}_{max_epochs}',
        log_level='ERROR',
        **settings,
    )


def is_frozen(name: str) -> bool:
    return any(name.startswith(f'{frozen}.') for frozen in FROZEN)


def assert_only_the_rest_was_trained(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> None:
    assert any(is_frozen(name) for name in before)
    for name, value in after.items():
        assert torch.equal(value, before[name]) == is_frozen(name), name


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_frozen_parts_have_no_gradient_and_no_optimizer_state_and_still_statistics(tmp_path):
    model = SmallDetector()
    before = state_of(model)
    runner = make_runner(tmp_path, model)
    runner.train()

    assert_only_the_rest_was_trained(before, state_of(model))
    optimizer = runner.optim_wrapper.optimizer
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group['params']}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != is_frozen(name)
        assert (id(parameter) in trained) != is_frozen(name)
        assert (parameter in optimizer.state) != is_frozen(name)
        assert parameter.grad is None or not is_frozen(name)


def test_a_resumed_run_keeps_parts_frozen(tmp_path):
    model = SmallDetector()
    before = state_of(model)
    make_runner(tmp_path, model, max_epochs=1).train()
    resumed = SmallDetector()
    runner = make_runner(tmp_path, resumed, max_epochs=2, resume=True)
    runner.train()

    assert runner.iter == 8
    assert_only_the_rest_was_trained(before, state_of(resumed))


def train_on_two(rank: int, work_dir: Path) -> None:
    """One of two processes; a parameter that gets no gradient would be an error of DDP."""
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)  # mmengine reads it, though nothing here uses a GPU
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{work_dir / "meeting"}', rank=rank, world_size=2
    )
    torch.manual_seed(0)
    model = SmallDetector()
    before = state_of(model)
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
    runner = make_runner(
        work_dir,
        model,
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=wrapper),
    )
    assert runner.model.module is model
    runner.train()
    assert_only_the_rest_was_trained(before, state_of(model))
    torch.distributed.destroy_process_group()


def test_distributed_training_needs_no_search_for_unused_parameters(tmp_path):
    # forked, so that they need not import everything again
    multiprocessing.start_processes(train_on_two, (tmp_path,), nprocs=2, start_method='fork')


def test_training_mode_spares_frozen_parts_only():
    model = SmallDetector().eval().train()
    in_training = {name for name, module in model.named_modules() if module.training}
    assert {'neck', 'neck.1', 'head', 'head.boxes.2'} <= in_training
    assert not any(name == 'backbone' or is_frozen(f'{name}.') for name in in_training)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['head.shred'], "'head.shred' is no module of SmallDetector; there is 'head.shared'"),
        (['zzz'], "there is 'data_preprocessor', 'backbone', 'neck', 'head'"),
        ([''], "'' is no module"),
        (['neck.0.weight'], "'neck.0.weight' is no module"),
        ('neck', r"write frozen_modules=\['neck'\]"),
    ],
)
def test_names_that_are_not_there_are_refused_with_those_that_are(names, message):
    with pytest.raises(ValueError, match=message):
        SmallDetector(names)


def test_the_detector_takes_the_names_from_its_config():
    init_default_scope('mmdet3d')
    config = Config.fromfile(next(CONFIGS.glob('cmt-tiny_*.py'))).model
    config.frozen_modules = ['img_backbone', 'pts_bbox_head.shared_conv']
    detector = MODELS.build(config).train()

    frozen = {name for name, value in detector.named_parameters() if not value.requires_grad}
    assert {name.rpartition('.')[0].split('.')[0] for name in frozen} == {
        'img_backbone',
        'pts_bbox_head',
    }
    assert all(name.startswith(tuple(config.frozen_modules)) for name in frozen)
    assert not detector.img_backbone.training and detector.pts_bbox_head.training
