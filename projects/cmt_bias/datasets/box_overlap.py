"""Which boxes overlap on the ground, and which points lie in a box.

mmdet3d has both as numba functions, which every data-loading process compiles anew on first use.
Boxes are rows (x, y, z bottom, length, width, height, yaw, ...), metres and radians, LiDAR frame.
"""

import numpy as np
import shapely
from mmdet3d.structures.ops.box_np_ops import center_to_corner_box2d


def overlap_on_ground(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which boxes (N, >= 7) overlap one box (>= 7,) in the x-y plane: bool (N,)."""
    boxes = np.concatenate([box[None, :7], others[:, :7]])
    corners = center_to_corner_box2d(boxes[:, :2], boxes[:, 3:5], boxes[:, 6])  # (N + 1, 4, 2)
    footprints = shapely.polygons(corners)
    return shapely.intersects(footprints[0], footprints[1:])


def points_in_boxes(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which points (P, >= 3) lie in which box (M, >= 7): bool (P, M)."""
    x, y, z = np.ascontiguousarray(points[:, :3].T)
    inside = np.zeros((len(points), len(boxes)), dtype=bool)
    for index, box in enumerate(boxes):
        radius = np.hypot(box[3], box[4]) / 2
        near = np.flatnonzero((np.abs(x - box[0]) <= radius) & (np.abs(y - box[1]) <= radius))
        east, north, height = x[near] - box[0], y[near] - box[1], z[near] - box[2]
        cos, sin = np.cos(box[6]), np.sin(box[6])
        inside[near, index] = (
            (np.abs(east * cos + north * sin) <= box[3] / 2)
            & (np.abs(north * cos - east * sin) <= box[4] / 2)
            & (height >= 0)
            & (height <= box[5])
        )
    return inside
