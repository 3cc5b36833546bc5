"""A small model with a biased head's interface, and runners that train it, for tests of hooks."""

import logging
from pathlib import Path

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

import cmt_bias.checkpoints.safe_loading  # noqa: F401  # lets runners resume
from cmt_bias.bias import BiasScale

NAMES = {
    'shared': ['shared'],
    'modality': ['lidar', 'camera'],
    'layer': ['layer0', 'layer1'],
    'layer_modality': ['layer0_lidar', 'layer0_camera', 'layer1_lidar', 'layer1_camera'],
}
NUM_SAMPLES = 20


class TanhWeights(nn.Module):
    """Weights of both modalities ``(B, Q)``, all 0 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        lidar, camera = self.linear(queries).tanh().unbind(-1)
        return lidar, camera


class BiasedHead(nn.Module):
    def __init__(self, **generator) -> None:
        super().__init__()
        self.weight_generator = TanhWeights()
        self.attention_bias_generator = BiasScale(num_layers=2, **generator)


@MODELS.register_module()
class BiasedModel(BaseModel):
    """Wants scale times weight to be ``target`` for the LiDAR, and its negative for the camera."""

    def __init__(
        self,
        bias_scale: float = 2.5,
        learnable_scale: bool = True,
        scale_granularity: str = 'shared',
        target: float = 4.0,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Linear(3, 3)
        self.pts_bbox_head = BiasedHead(
            bias_scale=bias_scale,
            learnable_scale=learnable_scale,
            scale_granularity=scale_granularity,
        )
        self.target = target
        self.uses_bias = True

    def forward(self, inputs: Tensor, mode: str) -> dict[str, Tensor]:
        head = self.pts_bbox_head
        lidar, camera = head.weight_generator(self.backbone(inputs).unsqueeze(1))
        scale = head.attention_bias_generator.scale_in_effect()
        if not self.uses_bias:
            scale = scale.detach()
        if 'modality' not in head.attention_bias_generator.scale_granularity:
            scale = torch.stack((scale, scale), dim=-1)
        logits = scale * torch.stack((lidar, camera), dim=-1).unsqueeze(-2)
        target = torch.tensor((self.target, -self.target))
        return dict(loss=(logits - target).square().mean())


class Vectors(Dataset):
    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(inputs=torch.tensor([1.0, index / NUM_SAMPLES, -1.0]))


def make_runner(
    work_dir: Path,
    model: nn.Module,
    hooks: list,
    max_epochs: int = 2,
    scale_settings: dict | None = None,
    lr: float = 0.1,
    accumulative_counts: int = 1,
    default_hooks: dict | None = None,
    **settings,
) -> Runner:
    """A runner of epochs of ten iterations, which writes a checkpoint after each."""
    key = 'attention_bias_generator.bias_scale'
    optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=lr, weight_decay=0.01),
        paramwise_cfg=dict(custom_keys={key: scale_settings or dict(lr_mult=0.1, decay_mult=0.0)}),
        accumulative_counts=accumulative_counts,
    )
    optim_wrapper.update(settings.pop('optim_wrapper', {}))
    return Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=Vectors(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=optim_wrapper,
        custom_hooks=hooks,
        default_hooks=default_hooks or dict(logger=dict(type='LoggerHook', interval=5)),
        experiment_name=f'{work_dir.name}_{max_epochs}_{settings.get("resume", False)}',
        randomness=dict(seed=0),
        **settings,
    )


def read_log(work_dir: Path) -> str:
    """All that was logged in a folder."""
    return '\n'.join(path.read_text() for path in sorted(work_dir.rglob('*.log')))


def warnings_in(work_dir: Path) -> list[str]:
    """Our hook's warnings, in the order in which they were given."""
    marker = f'- {logging.getLevelName(logging.WARNING)} - '
    return [
        line.partition(marker)[2]
        for line in read_log(work_dir).splitlines()
        if marker in line and 'scale' in line.lower() and 'skip' not in line
    ]
