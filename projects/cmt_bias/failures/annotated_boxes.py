"""The annotated boxes of a sample, and the points in them."""

from collections.abc import Mapping

import numpy as np
from mmdet3d.structures.ops.box_np_ops import points_in_rbbox
from torch import Tensor

from .point_columns import time_lags

_MARGIN = 0.05  # metres: a box is annotated to this, and its points lie on its surface
_YAW, _VELOCITY = 6, slice(7, 9)


def annotated_boxes(results: Mapping, needed_by: str) -> np.ndarray:
    """The boxes of a sample's annotated objects.

    In training a dataset gives annotations as ``ann_info``, in test (``test_mode=True``) as
    ``eval_ann_info``, which is meant for the evaluation and is there for the official test split
    too, empty.

    Args:
        results: Sample in a pipeline.
        needed_by: Who asks, for the message.

    Returns:
        (M, 9) float64: x, y, z of the bottom's centre, sizes along x, y, z, yaw, velocity along
        x and y (0 where unknown), in metres, radians and m/s, LiDAR frame.

    Raises:
        KeyError: If the dataset gives no annotations.
    """
    for key in ('eval_ann_info', 'ann_info'):
        annotations = results.get(key)
        if annotations is not None and 'gt_bboxes_3d' in annotations:
            given = annotations['gt_bboxes_3d'].tensor.double().numpy()
            boxes = np.zeros((len(given), 9))
            boxes[:, : min(given.shape[1], 9)] = given[:, :9]
            return np.nan_to_num(boxes)
    raise KeyError(
        f"{needed_by} needs the annotated boxes, but the sample has neither 'eval_ann_info' nor "
        "'ann_info'; set test_mode=True and leave load_eval_anns=True in the dataset"
    )


def points_in_boxes(points: Tensor, boxes: np.ndarray) -> np.ndarray:
    """Which points lie in which box, with boxes moved back to where they were for older points.

    Args:
        points: (N, D) of a keyframe and sweeps, LiDAR frame.
        boxes: (M, 9) of :func:`annotated_boxes`.

    Returns:
        Bool array (N, M).
    """
    positions, lags = points[:, :3].double().numpy(), time_lags(points).double().numpy()
    inside = np.zeros((len(positions), len(boxes)), dtype=bool)
    if len(boxes) == 0:
        return inside
    for lag in np.unique(lags):
        moved = boxes[:, : _YAW + 1].copy()
        moved[:, :2] -= boxes[:, _VELOCITY] * lag
        moved[:, 2] -= _MARGIN
        moved[:, 3:6] += 2 * _MARGIN
        then = lags == lag
        inside[then] = points_in_rbbox(positions[then], moved)
    return inside
