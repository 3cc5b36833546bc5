"""Learning rates and momenta of the recipes against the released schedules.

`tests/data/goldens/README.md` says how the released values were made.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

import cmt_bias  # noqa: F401  (registers what the configs name)

ROOT = Path(__file__).parents[2]
RELEASED = json.loads(
    (ROOT / 'tests' / 'data' / 'goldens' / 'released_cyclic_schedule.json').read_text()
)
RECIPES = {
    'fusion/cmt_voxel0100_r50_800x320_cbgs': 'cmt_voxel0100_r50_800x320_8xb4-cyclic-20e_nus-3d',
    'fusion/cmt_voxel0075_vov_1600x640_cbgs': (
        'cmt_voxel0075_vov99_1600x640_8xb2-cyclic-20e_nus-3d'
    ),
    'camera/cmt_camera_vov_1600x640_cbgs': 'cmt-camera_vov99_1600x640_8xb2-cyclic-20e_nus-3d',
    'lidar/cmt_lidar_voxel0075_cbgs': 'cmt-lidar_voxel0075_8xb2-cyclic-20e_nus-3d',
}
# mmengine's schedulers hold the last value for one iteration where two of them meet, so that from
# there on they are one step of the rise short of the peak: 0.13 % of it in 100 iterations.
RTOL = 0.002


class Parts(nn.Module):
    """A parameter for each part of the detector that may have a rate of its own."""

    def __init__(self) -> None:
        super().__init__()
        for name in ('img_backbone', 'img_neck', 'pts_backbone', 'pts_bbox_head'):
            self.add_module(name, nn.Linear(1, 1, bias=False))


class Training:
    """The recipe's optimizer and schedulers, without a model worth the name."""

    def __init__(self, config: Config, lr_scale: float = 1.0) -> None:
        model = Parts()
        # loss scaling needs a GPU and does not touch the rates
        wrapper = dict(config.optim_wrapper, type='OptimWrapper')
        wrapper = {k: v for k, v in wrapper.items() if k not in ('loss_scale', 'dtype')}
        self.optimizer = build_optim_wrapper(model, wrapper).optimizer
        for group in self.optimizer.param_groups:
            group['lr'] *= lr_scale
        part = {id(parameter): name.split('.')[0] for name, parameter in model.named_parameters()}
        self.groups = {
            part[id(parameter)]: group
            for group in self.optimizer.param_groups
            for parameter in group['params']
        }
        self.max_epochs = config.train_cfg.max_epochs
        self.configs = config.param_scheduler

    def play(self, max_iters: int) -> dict[str, dict[str, np.ndarray]]:
        """Values of every iteration: ``lr`` and ``beta1`` for each part."""
        epoch_length, rest = divmod(max_iters, self.max_epochs)
        assert rest == 0
        schedulers = [
            PARAM_SCHEDULERS.build(
                dict(config),
                default_args=dict(optimizer=self.optimizer, epoch_length=epoch_length),
            )
            for config in self.configs
        ]
        assert not any(scheduler.by_epoch for scheduler in schedulers)
        played = {part: dict(lr=[], beta1=[]) for part in self.groups}
        for _ in range(max_iters):
            for part, group in self.groups.items():
                played[part]['lr'].append(group['lr'])
                played[part]['beta1'].append(group['betas'][0])
            self.optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        return {
            part: {name: np.array(values) for name, values in lists.items()}
            for part, lists in played.items()
        }


@pytest.fixture(params=RECIPES)
def released(request) -> dict:
    return dict(RELEASED['recipes'][request.param], name=request.param)


@pytest.fixture
def config(released) -> Config:
    return Config.fromfile(ROOT / 'configs' / 'cmt' / f'{RECIPES[released["name"]]}.py')


def group_name(released: dict, part: str) -> str:
    return part if part in released['lr_mult'] else 'default'


def test_learning_rates_follow_the_released_schedule(config, released):
    played = Training(config).play(RELEASED['max_iters'])
    for part, values in played.items():
        expected = released['lr'][group_name(released, part)]
        np.testing.assert_allclose(values['lr'], expected, rtol=RTOL, err_msg=part)


def test_first_beta_follows_the_released_momentum_schedule(config, released):
    played = Training(config).play(RELEASED['max_iters'])
    for part, values in played.items():
        np.testing.assert_allclose(values['beta1'], released['beta1'], rtol=RTOL, err_msg=part)


def test_every_group_peaks_at_its_own_rate_in_a_long_run(config, released):
    played = Training(config).play(4000)
    for part, values in played.items():
        factor = released['lr_mult'][group_name(released, part)] * released['target_ratio'][0]
        peak = values['lr'].max()
        assert peak == pytest.approx(released['base_lr'] * factor, rel=1e-5), part
        assert values['lr'].argmax() == pytest.approx(0.4 * 4000, abs=1), part


def test_scaled_base_rate_scales_the_whole_schedule(config):
    plain = Training(config).play(RELEASED['max_iters'])
    scaled = Training(config, lr_scale=0.25).play(RELEASED['max_iters'])
    for part, values in plain.items():
        np.testing.assert_allclose(scaled[part]['lr'], 0.25 * values['lr'], rtol=1e-9)


def test_groups_of_adamw_have_the_released_weight_decay(config, released):
    training = Training(config)
    assert isinstance(training.optimizer, torch.optim.AdamW)
    for part, group in training.groups.items():
        expected = released['weight_decay'][group_name(released, part)]
        assert group['weight_decay'] == pytest.approx(expected), part
