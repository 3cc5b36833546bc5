"""Clouds and sweeps of which the tests know what is in them."""

import numpy as np
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints

from cmt_bias.failures.lidar import ELEVATION_STEP, LOWEST_ELEVATION

CHANNELS = [f'CAM_{view}' for view in 'ABCDEF']


def rotation(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    matrix = np.eye(3)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def sweep(age: float, degrees: float, shift: tuple[float, float, float]) -> dict:
    """A sweep whose frame lies turned and shifted in that of the keyframe, which is at 100 s."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees)
    matrix[:3, 3] = shift
    return dict(timestamp=100.0 - age, lidar_points=dict(lidar2sensor=matrix.tolist()))


def as_loaded(points: np.ndarray, matrix: list) -> np.ndarray:
    """Points (N, 3) of a sweep in the frame of the keyframe, as the loader gives them."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    return (homogeneous @ np.linalg.inv(matrix).T)[:, :3]


def beams(num_azimuths: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) of all beams of an HDL-32E at various distances, and their rings (N,)."""
    rings = np.repeat(np.arange(32), num_azimuths)
    elevation = np.deg2rad(LOWEST_ELEVATION + ELEVATION_STEP * rings)
    azimuth = np.tile(np.linspace(0, 2 * np.pi, num_azimuths, endpoint=False), 32)
    distance = np.random.default_rng(0).uniform(3, 50, len(rings))
    directions = [
        np.cos(elevation) * np.cos(azimuth),
        np.cos(elevation) * np.sin(azimuth),
        np.sin(elevation),
    ]
    return distance[:, None] * np.stack(directions, axis=1), rings


def cloud(positions: np.ndarray, fifth: np.ndarray | float = 0.0) -> LiDARPoints:
    """A cloud of (N, 3) whose fourth column numbers the points."""
    columns = np.zeros((len(positions), 5), dtype=np.float32)
    columns[:, :3] = positions
    columns[:, 3] = np.arange(len(positions)) % 256
    columns[:, 4] = fifth
    return LiDARPoints(torch.from_numpy(columns), points_dim=5)


def same(old: object, new: object) -> bool:
    if isinstance(old, LiDARPoints):
        return torch.equal(old.tensor, new.tensor)
    if isinstance(old, list) and len(old) and isinstance(old[0], np.ndarray):
        return all(map(np.array_equal, old, new))
    if isinstance(old, LiDARInstance3DBoxes):
        return torch.equal(old.tensor, new.tensor)
    if isinstance(old, np.ndarray):
        return np.array_equal(old, new)
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(same(old[key], new[key]) for key in old)
    return old == new


def two_objects() -> dict:
    """Two boxes, the first moving at 10 m/s, with points now and 0.4 s ago, and one elsewhere."""
    boxes = [[10, 0, -1, 4, 2, 2, 0.0, 10, 0], [0, 10, -1, 2, 2, 2, 0.5, 0, 0]]
    positions = np.array([[10, 0, 0], [6, 0, 0], [0, 10, 0], [0, 10, 0], [-20, 0, 0], [6, 0, 0]])
    lags = np.array([0, 0.4, 0, 0.4, 0.4, 0])
    return dict(
        points=cloud(positions, lags),
        eval_ann_info=dict(gt_bboxes_3d=LiDARInstance3DBoxes(torch.tensor(boxes), box_dim=9)),
        token='t',
        timestamp=100.0,
        lidar_sweeps=[sweep(0.4, 0.0, (0.0, 4.0, 0.0))],
    )


def ground(number: int = 20000) -> LiDARPoints:
    """Points uniform in distance up to 60 m, of intensity 20."""
    rng = np.random.default_rng(3)
    angle, distance = rng.uniform(-np.pi, np.pi, number), rng.uniform(2, 60, number)
    positions = np.stack(
        [distance * np.cos(angle), distance * np.sin(angle), np.zeros(number)], axis=1
    )
    points = cloud(positions)
    points.tensor[:, 3] = 20
    return points
