"""The tiny recipe's head with a bias, random weights, and one sample's random features for it."""

from pathlib import Path

import numpy as np
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import Config

import cmt_bias  # noqa: F401  (registers the head)

CONFIGS = Path(__file__).parents[2] / 'configs' / 'cmt_bias'
WEIGHTS = (0.8, -0.6)
SCALE = 2.0
BEV_SHAPE = (40, 40)
CAMERA_SHAPE = (6, 6, 16)
PAD_SHAPE = (96, 256)
NUM_LAYERS = 2


def build_head(**bias_config) -> torch.nn.Module:
    """A head of 60 queries whose weights are :data:`WEIGHTS` for all of them."""
    model = Config.fromfile(next(CONFIGS.glob('cmt-bias-fixed-tiny*.py'))).model
    settings = dict(lidar_window=3, camera_window=3, bias_scale=SCALE, learnable_scale=False)
    config = dict(
        model.pts_bbox_head,
        num_query=60,
        train_cfg=None,
        test_cfg=model.test_cfg.pts,
        attention_bias_config=dict(settings, **bias_config),
        weight_generator=dict(
            type='ConstantWeightGenerator', lidar_weight=WEIGHTS[0], camera_weight=WEIGHTS[1]
        ),
    )
    torch.manual_seed(0)
    head = MODELS.build(config)
    head.init_weights()
    return head.eval()


def lidar2img() -> np.ndarray:
    """(V, 4, 4) of cameras at the origin that look in as many directions, LiDAR to pixels."""
    height, width = PAD_SHAPE
    cam2img = np.array([[150.0, 0, width / 2], [0, 150.0, height / 2], [0, 0, 1.0]])
    matrices = []
    for yaw in np.arange(CAMERA_SHAPE[0]) * 2 * np.pi / CAMERA_SHAPE[0]:
        right = [np.sin(yaw), -np.cos(yaw), 0.0]
        ahead = [np.cos(yaw), np.sin(yaw), 0.0]
        matrix = np.eye(4)
        matrix[:3, :3] = cam2img @ np.array([right, [0.0, 0.0, -1.0], ahead])
        matrices.append(matrix)
    return np.stack(matrices)


def sample_inputs(sensors: str = 'LC') -> tuple[list | None, list | None, list[dict]]:
    """What the head gets of one sample: features of some sensors, and meta information."""
    generator = torch.Generator().manual_seed(1)
    bev = torch.randn(1, 128, *BEV_SHAPE, generator=generator)
    camera = torch.randn(CAMERA_SHAPE[0], 64, *CAMERA_SHAPE[1:], generator=generator)
    meta = dict(lidar2img=lidar2img(), pad_shape=PAD_SHAPE, box_type_3d=LiDARInstance3DBoxes)
    return [bev] if 'L' in sensors else None, [camera] if 'C' in sensors else None, [meta]
