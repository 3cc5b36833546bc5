"""Paste cut-out objects into one camera image as the released CMT does, the farther ones first.

Pixel coordinates as in ``resize_crop_flip_image.py``.
"""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

_MIN_RECTANGLE_SIDE = 2


class VisibleBoxes(NamedTuple):
    """K boxes that lie in front of a camera and touch its image, farthest first.

    Rectangles are those of the projected corners, right and bottom exclusive, clipped to the image
    without its last row and column, as in the released code.
    """

    indices: np.ndarray  # (K,) int64, which of all boxes they are
    rectangle: np.ndarray  # (K, 4) left, top, right, bottom in whole pixels
    depth: np.ndarray  # (K,) the corners' mean, metres


def visible_boxes(
    corners: np.ndarray, lidar2img: np.ndarray, image_shape: tuple[int, ...]
) -> VisibleBoxes:
    """The boxes with all corners in front of a camera that cover 2 x 2 pixels of it or more.

    Args:
        corners: (N, 8, 3), metres, LiDAR frame.
        lidar2img: (4, 4).
        image_shape: (H, W) in pixels.
    """
    projected = corners @ lidar2img[:3, :3].T + lidar2img[:3, 3]  # (N, 8, 3)
    index = np.flatnonzero((projected[..., 2] > 0).all(axis=1))
    projected = projected[index]
    pixels = projected[..., :2] / projected[..., 2:]  # (K, 8, 2)
    limit = (image_shape[1] - 1, image_shape[0] - 1)
    low = np.clip(pixels.min(axis=1).astype(np.int64), 0, limit)
    high = np.clip(pixels.max(axis=1).astype(np.int64), 0, limit)
    depth = projected[..., 2].mean(axis=1)
    kept = np.flatnonzero((high - low >= _MIN_RECTANGLE_SIDE).all(axis=1))
    order = kept[np.argsort(-depth[kept], kind='stable')]
    return VisibleBoxes(index[order], np.concatenate([low, high], 1)[order], depth[order])


def paste_crops(
    image: np.ndarray, boxes: VisibleBoxes, crops: Mapping[int, np.ndarray], mixup_rate: float
) -> np.ndarray:
    """A copy of an image (H, W, 3) with crops pasted at their boxes, from far to near.

    A crop is resized to its box's rectangle and shows through the image's own objects, nearer ones
    too: the released code means to draw these again, but its copies of them are views of the
    painted image.

    Args:
        image: uint8 or float32.
        boxes: The pasted boxes that the camera sees.
        crops: The crop (h, w, 3) by the index of its box; boxes without one leave no trace.
        mixup_rate: Weight of the crop in [0, 1]; negative: the crop covers the image.
    """
    painted = image.copy()
    for index, (left, top, right, bottom) in zip(boxes.indices, boxes.rectangle, strict=True):
        if index not in crops:
            continue
        place = np.s_[top:bottom, left:right]
        patch = cv2.resize(crops[index], (int(right - left), int(bottom - top)))
        if mixup_rate >= 0:
            # assigned to an image of uint8 it loses its fraction
            patch = painted[place] * (1 - mixup_rate) + patch * mixup_rate
        painted[place] = patch
    return painted
