"""When the points of a nuScenes cloud were taken, and by which beam.

A nuScenes file has x, y, z in metres, intensity 0-255 and the ring index 0-31 of the HDL-32E.
``LoadAlignedSweeps`` overwrites the ring index by the time in seconds for which a point is older
than the keyframe. Both are told apart by their values: the lags of a cloud are below one second,
and ring indices are whole numbers up to 31. Of four columns the last may be intensity or time
(``use_dim=[0, 1, 2, 4]`` is the default of the loaders of sweeps), which nothing tells apart: such
points are refused with a ValueError.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

FIFTH = 4
NUM_RINGS = 32
LOWEST_ELEVATION = -30.67
ELEVATION_STEP = 4.0 / 3.0
"""Beams of the Velodyne HDL-32E (its data sheet), degrees: -30.67 to +10.67."""

_SAME_TIME = 1e-3


def check_columns(points: Tensor) -> None:
    """Raise a ValueError for points (N, 4), as nobody knows what their last column is."""
    if points.shape[1] == FIFTH:
        raise ValueError(
            'a sensor failure cannot tell whether the fourth column of the points is intensity or '
            'time; set use_dim=[0, 1, 2, 3, 4] in the transforms that load points and sweeps'
        )


def ring_column(points: Tensor) -> Tensor | None:
    """Ring indices (N,), int64, of points (N, D); None if the points carry none."""
    check_columns(points)
    if points.shape[1] <= FIFTH or len(points) == 0:
        return None
    column = points[:, FIFTH]
    in_range = column.min() >= 0 and 1 <= column.max() < NUM_RINGS
    return column.long() if in_range and (column == column.round()).all() else None


def time_lags(points: Tensor) -> Tensor:
    """Seconds (N,) by which points (N, D) are older than the keyframe; 0 if they do not tell."""
    if ring_column(points) is not None or points.shape[1] <= FIFTH:
        return points.new_zeros(len(points))
    return points[:, FIFTH]


def rings_from_elevation(positions: Tensor) -> Tensor:
    """The HDL-32E's ring, 0 the lowest, nearest to the elevation of each point: (N,) int64.

    Args:
        positions: (N, 3) metres, in the frame of the LiDAR when it took them.
    """
    x, y, z = positions.double().unbind(-1)
    elevation = torch.rad2deg(torch.atan2(z, torch.hypot(x, y)))
    ring = torch.round((elevation - LOWEST_ELEVATION) / ELEVATION_STEP)
    return ring.clamp(0, NUM_RINGS - 1).long()


def sweep_lag(results: Mapping, sweep: Mapping) -> float:
    """Seconds by which an entry of ``lidar_sweeps`` is older than the keyframe."""
    return float(results['timestamp'] - sweep['timestamp'])


def into_sweep_frame(positions: Tensor, sweep: Mapping) -> Tensor:
    """Undo what ``LoadAlignedSweeps`` did.

    Args:
        positions: (N, 3) metres, LiDAR frame of the keyframe; those returned are in that of the
            time of the sweep.
        sweep: Entry of ``lidar_sweeps``.
    """
    matrix = torch.from_numpy(np.asarray(sweep['lidar_points']['lidar2sensor'], dtype=np.float64))
    moved = positions.double() @ matrix[:3, :3].T + matrix[:3, 3]
    return moved.to(positions.dtype)


def positions_when_taken(points: Tensor, results: Mapping) -> Tensor:
    """Positions (N, 3) of points (N, D), each in the LiDAR frame of when it was taken, metres.

    Args:
        points: Of a keyframe and sweeps, LiDAR frame of the keyframe.
        results: The sample, with ``timestamp`` and ``lidar_sweeps`` if it has sweeps.
    """
    lags, positions = time_lags(points), points[:, :3].clone()
    for sweep in results.get('lidar_sweeps') or []:
        taken_then = (lags - sweep_lag(results, sweep)).abs() < _SAME_TIME
        positions[taken_then] = into_sweep_frame(positions[taken_then], sweep)
    return positions
