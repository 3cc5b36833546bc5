"""The weights of an oracle, in words and numbers."""

import numpy as np
import pytest
import torch

from cmt_bias.bias import OracleWeightGenerator, find_windows
from cmt_bias.cmt.position_encoding import CameraGeometry
from cmt_bias.failures.cameras import CameraDrop
from cmt_bias.failures.lidar import LiDARFieldOfView
from cmt_bias.ops import TokenLayout, Window
from cmt_bias.spoiled_parts import box_regions

from .test_router import some_windows

RANGE = [-10, -10, -10, 10, 10, 10]


def weights_of(generator: OracleWeightGenerator, labels: list[str]) -> list[list[float]]:
    """For each of two samples its LiDAR and its camera weight, the same for all six queries."""
    tokens = torch.zeros(2, 6, 16)
    img_metas = [dict(spoiled_sensors=label) for label in labels]
    lidar, camera = generator(tokens, tokens, tokens, some_windows(), img_metas)
    assert lidar.shape == camera.shape == (2, 6)
    assert lidar.dtype == camera.dtype == torch.float32
    assert (lidar == lidar[:, :1]).all() and (camera == camera[:, :1]).all()
    return torch.stack((lidar[:, 0], camera[:, 0]), dim=1).tolist()


def test_an_oracle_trusts_the_healthy_sensors_alone():
    oracle = OracleWeightGenerator(RANGE)
    assert weights_of(oracle, ['', 'L']) == [[1, 1], [-1, 1]]
    assert weights_of(oracle, ['C', 'LC']) == [[1, -1], [-1, -1]]


def test_the_wrong_sign_trusts_the_spoiled_sensors_alone():
    oracle = OracleWeightGenerator(RANGE, wrong_sign=True)
    assert weights_of(oracle, ['', 'L']) == [[-1, -1], [1, -1]]
    assert weights_of(oracle, ['C', 'LC']) == [[-1, 1], [1, 1]]


def test_without_labels_the_remedy_is_named():
    tokens = torch.zeros(2, 6, 16)
    with pytest.raises(KeyError, match='LabelSpoiledSensors'):
        OracleWeightGenerator(RANGE)(tokens, tokens, tokens, some_windows(), [{}, {}])


# Two cameras look along +x and -x; the range is 20 m wide.
FORWARD = [[50.0, -50, 0, 0], [50, 0, -50, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
BACKWARD = [[-50.0, 50, 0, 0], [-50, 0, -50, 0], [-1, 0, 0, 0], [0, 0, 0, 1]]
POINTS = torch.tensor([[8.0, 0.5, 0], [-8.0, 0.5, 0], [0.5, 8.0, 0], [0.5, -8.0, 0]])


def weights_at(points: torch.Tensor, meta: dict) -> tuple[list[float], list[float]]:
    """LiDAR and camera weights of queries at points, metres."""
    lidar2img = torch.tensor([[FORWARD, BACKWARD]])
    windows = find_windows(
        (points[None] + 10) / 20,
        TokenLayout((40, 40), 2, (5, 5)),  # cells of half a metre
        CameraGeometry(lidar2img, lidar2img, (100, 100)),
        RANGE,
        (Window(1), Window(1)),
    )
    tokens = torch.zeros(1, len(points), 16)
    lidar, camera = OracleWeightGenerator(RANGE)(tokens, tokens, tokens, windows, [meta])
    return lidar[0].tolist(), camera[0].tolist()


@pytest.mark.parametrize('view', [0, 1])
def test_a_dropped_camera_is_spoiled_for_the_queries_that_it_sees(view):
    results = dict(img=[np.ones((4, 6, 3), dtype=np.uint8)] * 2, token='t')
    seed = next(
        seed
        for seed in range(20)
        if CameraDrop(num_views=1, seed=seed)(dict(results))['spoiled_views'].tolist()
        == [view == 0, view == 1]
    )
    lidar, camera = weights_at(POINTS, CameraDrop(num_views=1, seed=seed)(results))
    assert lidar == [1, 1, 1, 1]
    assert camera == [-1 if view == 0 else 1, -1 if view == 1 else 1, 1, 1]


class Points:
    """As far as the field of view looks at points."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __getitem__(self, kept: torch.Tensor) -> 'Points':
        return Points(self.tensor[kept])


@pytest.mark.parametrize('degrees', [0.0, 90.0, 200.0])
def test_a_blind_sector_is_spoiled_for_the_queries_in_it_wherever_augmentation_has_turned_it(
    degrees,
):
    # nuScenes' LiDAR looks along y: what lies within 60 degrees of it is kept
    transform = LiDARFieldOfView(60)
    meta = dict(points=Points(torch.randn(50, 3)), token='t')
    part = transform.spoil(meta, np.random.default_rng(0))
    angle = np.deg2rad(degrees)
    motion = np.eye(4)
    motion[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    motion[:3, :3] *= 1.1
    motion[:3, 3] = (0.2, -0.1, 0.0)
    meta = dict(spoiled_sensors='L', spoiled_regions=part.regions, lidar_aug_matrix=motion)
    moved = POINTS @ torch.from_numpy(motion[:3, :3].T).float() + torch.tensor(motion[:3, 3])
    lidar, camera = weights_at(moved.float(), meta)
    assert lidar == [-1, -1, 1, -1]
    assert camera == [1, 1, 1, 1]


def test_boxes_are_spoiled_within_a_metre_of_their_turned_footprint():
    boxes = np.array([[8.0, 0.5, 0, 4.0, 1.0, 1.0, np.pi / 2]])
    meta = dict(spoiled_sensors='L', spoiled_regions=box_regions(boxes))
    inside = torch.tensor([[8.1, 3.1, 0], [8.4, 0.4, 0], [9.6, 0.4, 0], [8.1, 3.6, 0]])
    assert weights_at(inside, meta)[0] == [-1, -1, 1, 1]
