"""The annotated boxes of a sample, and the points in them."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ..datasets.box_overlap import points_in_boxes
from .point_columns import time_lags

_MARGIN = 0.05  # metres: a box is annotated to this, and its points lie on its surface
_VELOCITY = slice(7, 9)


def annotated_boxes(results: Mapping) -> np.ndarray:
    """The boxes of a sample's annotated objects.

    In training a dataset gives annotations as ``ann_info``, in test (``test_mode=True``) as
    ``eval_ann_info``, which is meant for the evaluation and is there for the official test split
    too, empty.

    Returns:
        (M, 9) float64: x, y, z of the bottom's centre, sizes along x, y, z, yaw, velocity along
        x and y (0 where unknown), in metres, radians and m/s, LiDAR frame.

    Raises:
        KeyError: If the dataset gives no annotations.
    """
    for key in ('eval_ann_info', 'ann_info'):
        annotations = results.get(key)
        if annotations is not None and 'gt_bboxes_3d' in annotations:
            given = annotations['gt_bboxes_3d'].tensor.double().numpy()[:, :9]
            return np.nan_to_num(np.pad(given, ((0, 0), (0, 9 - given.shape[1]))))
    raise KeyError(
        "a sensor failure needs the annotated boxes, but the sample has neither 'eval_ann_info' "
        "nor 'ann_info'; set test_mode=True and leave load_eval_anns=True in the dataset"
    )


def points_in_annotated_boxes(points: Tensor, boxes: np.ndarray) -> np.ndarray:
    """Which points lie in which box, with boxes moved back to where they were for older points.

    Args:
        points: (N, D) of a keyframe and sweeps, LiDAR frame.
        boxes: (M, 9) of :func:`annotated_boxes`, which are grown by 5 cm on each side.

    Returns:
        Bool array (N, M).
    """
    positions, lags = points[:, :3].double().numpy(), time_lags(points).double().numpy()
    grown = boxes + (0, 0, -_MARGIN, 2 * _MARGIN, 2 * _MARGIN, 2 * _MARGIN, 0, 0, 0)
    inside = np.zeros((len(positions), len(boxes)), dtype=bool)
    for lag in np.unique(lags):
        moved = grown.copy()
        moved[:, :2] -= boxes[:, _VELOCITY] * lag
        then = lags == lag
        inside[then] = points_in_boxes(positions[then], moved)
    return inside
