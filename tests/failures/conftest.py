"""A sample as the loading gives it, and the recordings that it is from."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from .samples import CHANNELS, sweep


@pytest.fixture(scope='module')
def recordings(tmp_path_factory) -> Path:
    """Files of two recordings of 3 s with two keyframes a second, named as nuScenes does."""
    root = tmp_path_factory.mktemp('samples')
    rng = np.random.default_rng(5)
    for channel in ('LIDAR_TOP', *CHANNELS):
        (root / channel).mkdir()
        for log, start in (('log-a', 97), ('log-b', 5000)):
            for step in range(7):
                name = f'{log}__{channel}__{int((start + step / 2) * 1e6)}'
                if channel == 'LIDAR_TOP':
                    points = rng.uniform(-20, 20, (50 + step, 5)).astype(np.float32)
                    points.tofile(root / channel / f'{name}.pcd.bin')
                else:
                    image = rng.integers(1, 255, (90, 160, 3), dtype=np.uint8)
                    cv2.imwrite(str(root / channel / f'{name}.png'), image)
    return root


@pytest.fixture
def sample(make_sample, recordings) -> dict:
    """A sample as it is after the loading in a test, with a sweep and annotations."""
    made = make_sample(num_points=4000, num_views=6)
    now = 'log-a__{}__100000000'
    made['filename'] = [str(recordings / name / f'{now.format(name)}.png') for name in CHANNELS]
    cloud_name = f'{now.format("LIDAR_TOP")}.pcd.bin'
    made['lidar_points'] = dict(lidar_path=str(recordings / 'LIDAR_TOP' / cloud_name))
    made['token'] = 'a_token'
    made['timestamp'] = 100.0
    made['lidar_sweeps'] = [sweep(0.2, 3.0, (0.1, 1.5, 0.0)), sweep(0.4, 5.0, (0.3, 3.0, 0.0))]
    made['points'].tensor[:, 4] = torch.tensor([0.0, 0.2]).repeat(2000)
    made['eval_ann_info'] = dict(gt_bboxes_3d=made['gt_bboxes_3d'])
    return made
