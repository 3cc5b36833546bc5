"""Where past sweeps come to lie, against world points that do not move and the official devkit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.datasets.transforms import LoadPointsFromMultiSweeps
from mmdet3d.structures.points import LiDARPoints
from pyquaternion import Quaternion

from cmt_bias.datasets import LoadAlignedSweeps

EGO_FROM_LIDAR = np.eye(4)
EGO_FROM_LIDAR[:3, :3] = Quaternion(axis=(0, 0, 1), degrees=-90).rotation_matrix
EGO_FROM_LIDAR[:3, 3] = (0.94, 0.0, 1.84)
WORLD_POINTS = np.random.default_rng(0).uniform([-40, -40, 0], [40, 40, 5], (500, 3))


class MemorySweeps:
    """Reads what a dict holds instead of files."""

    files: dict[str, np.ndarray]

    def _load_points(self, path: str) -> np.ndarray:
        return self.files[path].ravel()


class AlignedFromMemory(MemorySweeps, LoadAlignedSweeps):
    """The loader under test."""


class StockFromMemory(MemorySweeps, LoadPointsFromMultiSweeps):
    """mmdet3d's own."""


def world_from_lidar(time: float, degrees_per_second: float, speed: float) -> np.ndarray:
    """Pose (4, 4) of the LiDAR of a vehicle on a circle, or straight on."""
    yaw = np.deg2rad(degrees_per_second) * time
    way = speed * time
    world_from_ego = np.eye(4)
    world_from_ego[:3, :3] = Quaternion(axis=(0, 0, 1), radians=yaw).rotation_matrix
    # The chord of an arc of this length.
    world_from_ego[:2, 3] = (
        way * np.sinc(yaw / 2 / np.pi) * np.array([np.cos(yaw / 2), np.sin(yaw / 2)])
    )
    return world_from_ego @ EGO_FROM_LIDAR


def seen_from(pose: np.ndarray) -> np.ndarray:
    """The world's points (N, 5) in the frame of a LiDAR, as a file has them."""
    points = np.zeros((len(WORLD_POINTS), 5), dtype=np.float32)
    points[:, :3] = (WORLD_POINTS - pose[:3, 3]) @ pose[:3, :3]
    points[:, 4] = 7  # the ring
    return points


def drive(degrees_per_second: float, speed: float, ages: list[float]) -> tuple[dict, dict]:
    """A sample of a drive, and the files of its sweeps."""
    keyframe = world_from_lidar(0.0, degrees_per_second, speed)
    files, sweeps = {}, []
    for age in ages:
        pose = world_from_lidar(-age, degrees_per_second, speed)
        files[str(age)] = seen_from(pose)
        matrix = np.linalg.inv(pose) @ keyframe
        points = dict(lidar_path=str(age), lidar2sensor=matrix.tolist())
        sweeps.append(dict(timestamp=50.0 - age, lidar_points=points))
    cloud = LiDARPoints(torch.from_numpy(seen_from(keyframe)), points_dim=5)
    return dict(points=cloud, timestamp=50.0, lidar_sweeps=sweeps), files


def load(loader: MemorySweeps, sample: dict, files: dict) -> torch.Tensor:
    loader.files = files
    return loader.transform(sample)['points'].tensor


@given(st.floats(-40, 40), st.floats(0, 20), st.floats(0.05, 1.0), st.booleans())
def test_a_static_point_stays_where_it_is_while_the_vehicle_turns(turn, speed, age, test_mode):
    sample, files = drive(turn, speed, [age / 2, age])
    loader = AlignedFromMemory(sweeps_num=2, use_dim=5, test_mode=test_mode)
    points = load(loader, sample, files).reshape(3, -1, 5)
    for sweep in points[1:]:
        torch.testing.assert_close(sweep[:, :3], points[0, :, :3], atol=2e-4, rtol=0)
    lags = torch.tensor([0.0, age / 2, age])
    torch.testing.assert_close(points[:, :, 4], lags[:, None].expand(3, len(WORLD_POINTS)))


@pytest.mark.parametrize(
    ('turn', 'speed', 'shift'), [(0, 10, 0.0), (10, 5, 0.22), (20, 7, 0.61), (30, 6, 0.78)]
)
def test_the_stock_loader_shifts_the_oldest_sweep_of_half_a_second(turn, speed, shift):
    """Why there is a loader of ours. If this fails, mmdet3d has mended its own."""
    sample, files = drive(turn, speed, [0.5])
    points = load(StockFromMemory(sweeps_num=1, use_dim=5), sample, files).reshape(2, -1, 5)
    measured = (points[1, :, :3] - points[0, :, :3]).norm(dim=-1).mean()
    assert float(measured) == pytest.approx(shift, abs=0.04)


def test_training_draws_from_all_sweeps_and_testing_takes_the_latest():
    ages = [0.05 * number for number in range(1, 7)]
    np.random.seed(0)
    drawn = set()
    for _ in range(20):
        sample, files = drive(5, 5, ages)
        lags = load(AlignedFromMemory(sweeps_num=3, use_dim=5), sample, files)[:, 4].unique()
        assert len(lags) == 4
        drawn |= {round(lag, 2) for lag in lags.tolist()}
    assert drawn == {0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3}
    sample, files = drive(5, 5, ages)
    loader = AlignedFromMemory(sweeps_num=3, use_dim=5, test_mode=True)
    lags = load(loader, sample, files)[:, 4].unique()
    np.testing.assert_allclose(lags, [0, 0.05, 0.1, 0.15], atol=1e-6)


@pytest.mark.parametrize('sweeps', [{}, {'lidar_sweeps': []}])
@pytest.mark.parametrize('remove_close', [False, True])
def test_a_sample_without_sweeps_repeats_its_keyframe_if_asked(sweeps, remove_close):
    points = torch.tensor([[0.5, 0.5, 0, 1, 9], [5, 0, 0, 1, 9]])
    sample = dict(points=LiDARPoints(points.clone(), points_dim=5), timestamp=1.0, **sweeps)
    options = dict(sweeps_num=2, use_dim=5, remove_close=remove_close)
    padded = LoadAlignedSweeps(**options, pad_empty_sweeps=True)(dict(sample))['points']
    assert padded.tensor[:, 0].tolist() == ([0.5, 5, 5, 5] if remove_close else [0.5, 5] * 3)
    assert len(LoadAlignedSweeps(**options)(dict(sample))['points']) == 2


def test_only_the_columns_asked_for_are_left():
    sample, files = drive(5, 5, [0.1])
    points = load(AlignedFromMemory(use_dim=[0, 1, 2, 4]), sample, files)
    assert points.shape == (2 * len(WORLD_POINTS), 4)
    assert {round(lag, 3) for lag in points[:, 3].unique().tolist()} == {0.0, 0.1}
