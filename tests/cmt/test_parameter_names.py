"""Checkpoints of the released code fit: the heads of our recipes have the released keys."""

from pathlib import Path

import pytest
from mmdet3d.registry import MODELS
from mmengine.config import Config

import cmt_bias.cmt  # noqa: F401  (registers the heads)

ROOT = Path(__file__).parents[2]
RELEASED = ROOT / 'tests' / 'data' / 'released_parameter_names'
RECIPES = {
    'cmt_head_r50': 'cmt_voxel0100_r50_800x320_8xb4-cyclic-20e_nus-3d',
    'cmt_head_vov': 'cmt_voxel0075_vov99_1600x640_8xb2-cyclic-20e_nus-3d',
    'cmt_image_head_vov': 'cmt-camera_vov99_1600x640_8xb2-cyclic-20e_nus-3d',
    'cmt_lidar_head_voxel0075': 'cmt-lidar_voxel0075_8xb2-cyclic-20e_nus-3d',
}


def released_shapes(name: str) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for line in (RELEASED / f'{name}.txt').read_text().splitlines():
        key, shape = line.split('\t')
        shapes[key] = () if shape == '-' else tuple(map(int, shape.split(',')))
    return shapes


def head_shapes(recipe: str) -> dict[str, tuple[int, ...]]:
    model = Config.fromfile(ROOT / 'configs' / 'cmt' / f'{recipe}.py').model
    head = MODELS.build(
        dict(model.pts_bbox_head, train_cfg=model.train_cfg.pts, test_cfg=model.test_cfg.pts)
    )
    return {f'pts_bbox_head.{key}': tuple(value.shape) for key, value in head.state_dict().items()}


@pytest.mark.parametrize('released', RECIPES)
def test_head_of_recipe_has_the_released_parameter_names_and_shapes(released):
    assert head_shapes(RECIPES[released]) == released_shapes(released)
