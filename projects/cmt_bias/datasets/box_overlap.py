"""Which boxes overlap on the ground, and which points lie in a box.

mmdet3d has both as numba functions, which every data-loading process compiles anew on first use;
these need no compilation. Boxes are rows (x, y, z bottom, length, width, height, yaw, ...),
metres and radians, LiDAR frame.
"""

import numpy as np


def overlap_on_ground(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether the rectangles of two sets of boxes overlap in the x-y plane.

    Two rectangles are apart exactly if their projections on a side of one of them are apart
    (separating axis theorem).

    Args:
        boxes: (M, >= 7).
        others: (N, >= 7).

    Returns:
        bool (M, N); rectangles that only touch do not overlap.
    """
    offset = others[None, :, :2] - boxes[:, None, :2]  # (M, N, 2)
    half, other_half = boxes[:, None, 3:5] / 2, others[None, :, 3:5] / 2
    turn = others[None, :, 6] - boxes[:, None, 6]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))  # (M, N)

    along = np.abs(_in_own_axes(offset, boxes[:, None, 6]))
    reach = half + np.stack(
        [
            other_half[..., 0] * cos + other_half[..., 1] * sin,
            other_half[..., 0] * sin + other_half[..., 1] * cos,
        ],
        axis=-1,
    )
    other_along = np.abs(_in_own_axes(offset, others[None, :, 6]))
    other_reach = other_half + np.stack(
        [half[..., 0] * cos + half[..., 1] * sin, half[..., 0] * sin + half[..., 1] * cos],
        axis=-1,
    )
    return (along < reach).all(-1) & (other_along < other_reach).all(-1)


def inside_any_box(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which points lie in at least one box.

    Args:
        points: (P, >= 3), metres, LiDAR frame.
        boxes: (M, >= 7).

    Returns:
        bool (P,).
    """
    x, y, z = np.ascontiguousarray(points[:, :3].T)
    inside = np.zeros(len(points), dtype=bool)
    for box in boxes:
        radius = np.hypot(box[3], box[4]) / 2
        near = np.flatnonzero((np.abs(x - box[0]) <= radius) & (np.abs(y - box[1]) <= radius))
        offset = np.stack([x[near] - box[0], y[near] - box[1]], axis=-1)
        within = (np.abs(_in_own_axes(offset, box[6])) <= box[3:5] / 2).all(-1)
        height = z[near] - box[2]
        inside[near[within & (height >= 0) & (height <= box[5])]] = True
    return inside


def _in_own_axes(offset: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Turn vectors (..., 2) into the axes (length, width) of boxes with these yaws (...)."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.stack(
        [offset[..., 0] * cos + offset[..., 1] * sin, offset[..., 1] * cos - offset[..., 0] * sin],
        axis=-1,
    )
