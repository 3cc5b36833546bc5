"""Paste cut-out objects into one camera image as the released CMT does, the farther ones first.

Pure functions of arrays. Pixel coordinates as in ``resize_crop_flip_image.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

NO_OWNER = -1
_MIN_RECTANGLE_SIDE = 2


@dataclass(frozen=True)
class VisibleBoxes:
    """K boxes that lie in front of a camera and touch its image, farthest first."""

    index: np.ndarray
    """(K,) which of the boxes, int64."""
    rectangle: np.ndarray
    """(K, 4) left, top, right, bottom of the projected corners, clipped to the image, whole
    pixels, right and bottom exclusive. As in the released code the image's last row and column
    are never in it."""
    depth: np.ndarray
    """(K,) mean depth of the corners, metres."""


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
    image: np.ndarray,
    boxes: VisibleBoxes,
    crops: Mapping[int, np.ndarray],
    num_own: int,
    mixup_rate: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Paste crops at their boxes, from far to near.

    A crop is resized to the rectangle and blended in, ``(1 - mixup_rate) * image + mixup_rate *
    crop``. A pasted object shows through the image's own objects, nearer ones too: the released
    code means to draw these again, but its copies of them are views of the painted image.

    Args:
        image: (H, W, 3), uint8 or float32; stays as it is.
        boxes: All boxes the camera sees, own and pasted; the first ``num_own`` are own.
        crops: For some pasted box (by its index) the crop (h, w, 3). A pasted box
            without a crop leaves no trace in the image.
        num_own: Number of boxes that belong to the image itself.
        mixup_rate: Weight of the crop in [0, 1]; negative: the crop covers the image.

    Returns:
        The painted image, and the nearest box at each pixel, pasted ones without a crop left out:
        int32 (H, W), ``NO_OWNER`` where none.
    """
    painted = image.copy()
    owner = np.full(image.shape[:2], NO_OWNER, dtype=np.int32)
    for index, (left, top, right, bottom) in zip(boxes.index, boxes.rectangle, strict=True):
        place = np.s_[top:bottom, left:right]
        if index >= num_own:
            if index not in crops:
                continue
            patch = cv2.resize(crops[index], (int(right - left), int(bottom - top)))
            if mixup_rate >= 0:
                # assigned to an image of uint8 it loses its fraction
                patch = painted[place] * (1 - mixup_rate) + patch * mixup_rate
            painted[place] = patch
        owner[place] = index
    return painted, owner


def points_shown(
    points: np.ndarray,
    point_owner: np.ndarray,
    owner: np.ndarray,
    num_own: int,
    lidar2img: np.ndarray,
) -> np.ndarray:
    """Which points agree with the nearest box at their pixel.

    A point of the sample itself must not fall on a pasted object; a point of a pasted object must
    fall on that object. Points outside the image always agree.

    Args:
        points: (P, >= 3), metres, LiDAR frame.
        point_owner: (P,) index of the pasted box a point came with, ``NO_OWNER`` for own points.
        owner: (H, W) as from :func:`paste_crops`.
        num_own: Number of boxes that belong to the image itself.
        lidar2img: (4, 4).
    """
    projected = points[:, :3] @ lidar2img[:3, :3].T + lidar2img[:3, 3]
    agrees = np.ones(len(points), dtype=bool)
    front = np.flatnonzero(projected[:, 2] > 0)
    pixel = np.floor(projected[front, :2] / projected[front, 2:])
    height, width = owner.shape
    in_image = ((pixel >= 0) & (pixel < (width, height))).all(axis=1)
    front, pixel = front[in_image], pixel[in_image].astype(np.int64)

    shown = owner[pixel[:, 1], pixel[:, 0]]
    is_own = point_owner[front] == NO_OWNER
    agrees[front] = np.where(is_own, shown < num_own, shown == point_owner[front])
    return agrees
