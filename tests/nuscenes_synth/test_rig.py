import pickle
from pathlib import Path

import numpy as np
import pytest

from nuscenes_synth.rig import CAMERAS, LIDAR

REAL_FRAME = Path(__file__).parents[3] / 'shared' / 'real_frame'


@pytest.fixture(scope='module')
def real_sample():
    paths = list(REAL_FRAME.glob('*.pkl'))
    if not paths:
        pytest.skip(f'no real nuScenes frame in {REAL_FRAME}')
    with open(paths[0], 'rb') as file:
        return pickle.load(file)['data_list'][0]


@pytest.mark.parametrize('camera', CAMERAS, ids=lambda camera: camera.channel)
def test_cameras_equal_the_real_ones(real_sample, camera):
    real = real_sample['images'][camera.channel]
    np.testing.assert_allclose(camera.ego_from_sensor(), real['cam2ego'], atol=2e-6)
    np.testing.assert_allclose(camera.intrinsics(1600, 900), real['cam2img'], atol=1e-4)


def test_lidar_mounting_equals_the_real_one(real_sample):
    real = real_sample['lidar_points']['lidar2ego']
    np.testing.assert_allclose(LIDAR.ego_from_sensor(), real, atol=2e-6)


def test_lidar_rings_equal_the_real_ones(real_sample):
    """Median elevation of each ring of a real sweep, within the real sensor's own scatter."""
    cloud = np.fromfile(next(REAL_FRAME.glob('*.pcd.bin')), dtype=np.float32).reshape(-1, 5)
    level = np.linalg.norm(cloud[:, :2], axis=1)
    cloud, level = cloud[level > 3], level[level > 3]
    elevation = np.arctan2(cloud[:, 2], level)
    medians = [np.median(elevation[cloud[:, 4] == ring]) for ring in range(LIDAR.num_rings)]
    np.testing.assert_allclose(LIDAR.ring_elevations(), medians, atol=np.radians(0.35))


def test_intrinsics_scale_with_the_image():
    full, half = CAMERAS[0].intrinsics(1600, 900), CAMERAS[0].intrinsics(800, 450)
    np.testing.assert_allclose(half[:2], full[:2] / 2)
    assert half[2].tolist() == [0, 0, 1]
