"""Which boxes overlap on the ground, and which points lie in a box.

mmdet3d has both as numba functions, which every data-loading process compiles anew on first use;
these need no compilation. Boxes are rows (x, y, z bottom, length, width, height, yaw, ...),
metres and radians, LiDAR frame.
"""

import numpy as np


def overlap_on_ground(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which boxes (N, >= 7) overlap one box (>= 7,) in the x-y plane: bool (N,).

    Two rectangles are apart exactly if their projections on a side of one of them are apart
    (separating axis theorem), those that only touch too.
    """
    offset = others[:, :2] - box[:2]
    turn = others[:, 6] - box[6]
    swap = np.abs([[np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])  # (2, 2, N)
    half, other_half = box[3:5] / 2, others[:, 3:5] / 2
    reach = half + np.einsum('ijn,nj->ni', swap, other_half)
    other_reach = other_half + np.einsum('ijn,j->ni', swap, half)
    along = np.abs(_in_own_axes(offset, box[6]))
    other_along = np.abs(_in_own_axes(offset, others[:, 6]))
    return (along < reach).all(-1) & (other_along < other_reach).all(-1)


def points_in_boxes(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which points (P, >= 3) lie in which box (M, >= 7): bool (P, M)."""
    x, y, z = np.ascontiguousarray(points[:, :3].T)
    inside = np.zeros((len(points), len(boxes)), dtype=bool)
    for index, box in enumerate(boxes):
        radius = np.hypot(box[3], box[4]) / 2
        near = np.flatnonzero((np.abs(x - box[0]) <= radius) & (np.abs(y - box[1]) <= radius))
        offset = np.stack([x[near] - box[0], y[near] - box[1]], axis=-1)
        within = (np.abs(_in_own_axes(offset, box[6])) <= box[3:5] / 2).all(-1)
        height = z[near] - box[2]
        inside[near, index] = within & (height >= 0) & (height <= box[5])
    return inside


def _in_own_axes(offset: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Turn vectors (..., 2) into the axes (length, width) of boxes with these yaws (...)."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.stack(
        [offset[..., 0] * cos + offset[..., 1] * sin, offset[..., 1] * cos - offset[..., 0] * sin],
        axis=-1,
    )
