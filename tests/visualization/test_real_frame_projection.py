"""Projected boxes on a real nuScenes frame against the 2D boxes that the converter wrote."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from mmdet3d.structures import LiDARInstance3DBoxes

from cmt_bias.visualization import CameraView

FRAME_DIR = Path(__file__).resolve().parents[3] / 'shared' / 'real_frame'
HEIGHT, WIDTH = 900, 1600

pytestmark = pytest.mark.skipif(
    not FRAME_DIR.is_dir(), reason=f'needs the real frame in {FRAME_DIR}, which is absent'
)


@pytest.fixture(scope='module')
def info() -> dict:
    (file,) = FRAME_DIR.glob('*.pkl')
    return pickle.loads(file.read_bytes())['data_list'][0]


@pytest.mark.parametrize(
    ('camera', 'number'),
    [
        ('CAM_FRONT', 44),
        ('CAM_FRONT_LEFT', 1),
        ('CAM_FRONT_RIGHT', 13),
        ('CAM_BACK', 10),
        ('CAM_BACK_LEFT', 2),
        ('CAM_BACK_RIGHT', 4),
    ],
)
def test_extents_in_the_image_are_those_of_the_converter(info, camera, number):
    """Of every box wholly in the image the converter gives the extent of its projection.

    It projects the annotated box; the box in the LiDAR frame has kept of its attitude the yaw
    alone, and the sensor is tilted: a few per cent of the box's size remain (4.5 at most).
    """
    boxes = np.array([instance['bbox_3d'] for instance in info['instances']])
    boxes[:, 2] -= boxes[:, 5] / 2  # the info file has gravity centres
    cam2img = np.eye(4)
    cam2img[:3, :3] = info['images'][camera]['cam2img']
    lidar2img = cam2img @ np.array(info['images'][camera]['lidar2cam'])
    view = CameraView(camera, np.zeros((HEIGHT, WIDTH, 3), np.uint8), lidar2img)
    segments, visible = view.project_boxes(LiDARInstance3DBoxes(boxes, box_dim=boxes.shape[1]))
    points = segments[visible.all(axis=1)].reshape(-1, 24, 2)
    extents = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)  # (N, 4)
    expected = np.array([instance['bbox'] for instance in info['cam_instances'][camera]])
    inside = (expected[:, :2] > 1).all(axis=1) & (expected[:, 2] < WIDTH - 1)
    inside &= expected[:, 3] < HEIGHT - 1
    assert inside.sum() == number
    differences = np.abs(expected[inside][:, None] - extents[None]).max(axis=-1).min(axis=1)
    sizes = (expected[inside, 2:] - expected[inside, :2]).max(axis=1)
    assert (differences < 0.06 * sizes).all()
