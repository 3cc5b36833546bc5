"""Which object a camera cell shows, how far away and how large."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmdet3d.structures import LiDARInstance3DBoxes
from torch import Tensor

from ..cmt.position_encoding import camera_cell_pixels, project_to_cameras

NEAREST = 0.5
"""Metres: a corner that is nearer to the image plane, or behind it, counts as this far."""

CORE = 0.25
"""Cells within this share of an object's extent on both sides of its centre show it."""


class CameraTargets(NamedTuple):
    """What the cells of all views of a sample show; logs are of metres, and 0 in background."""

    labels: Tensor  # (V, h, w) int64 class, ``num_classes`` for background
    log_depth: Tensor  # (V, h, w) of the box's centre
    log_size: Tensor  # (V, h, w, 3) of length, width and height


def camera_targets(
    boxes: LiDARInstance3DBoxes,
    labels: Tensor,
    lidar2img: Tensor,
    pad_shape: tuple[int, int],
    feature_shape: Sequence[int],
    num_classes: int,
) -> CameraTargets:
    """Assign objects to the cells in the middle of their images.

    An object whose centre a view sees belongs to the cell that holds it, and to those within half
    of its extent there; where several meet, the nearest is shown.

    Args:
        boxes: N boxes, LiDAR frame.
        labels: ``(N,)`` classes.
        lidar2img: ``(V, 4, 4)`` LiDAR frame to pixels of the padded input.
        pad_shape: ``(H, W)`` of the padded input, pixels.
        feature_shape: ``(h, w)`` of the cells.
        num_classes: Label of background.
    """
    center = boxes.gravity_center.to(lidar2img)
    pixels, visible = project_to_cameras(center[None], lidar2img[None], pad_shape)
    center_uv, visible = pixels[0, ..., :2], visible[0]  # (V, N, 2), (V, N)
    depth = F.pad(center, (0, 1), value=1.0) @ lidar2img[:, 2].T  # (N, V)
    half_extent = _half_extents(boxes.corners.to(lidar2img), lidar2img, center_uv)

    (rows, columns), (height, width) = feature_shape, pad_shape
    half_cell = lidar2img.new_tensor((width / columns, height / rows)) / 2
    reach = (2 * CORE * half_extent).maximum(half_cell)  # the cell of the centre at least
    corners_uv = camera_cell_pixels((rows, columns), pad_shape, lidar2img.device)
    cells = corners_uv + half_cell  # (h, w, 2)
    away = (cells - center_uv[:, :, None, None]).abs()  # (V, N, h, w, 2)
    shown = (away <= reach[:, :, None, None]).all(-1) & visible[..., None, None]
    # Background is one more object, behind all others; its depth and size have 0 as their log.
    distance = depth.T[..., None, None].where(shown, torch.inf)
    distance = F.pad(distance, (0, 0, 0, 0, 0, 1), value=torch.finfo(distance.dtype).max)
    nearest = distance.argmin(dim=1)  # (V, h, w)
    labels = F.pad(labels, (0, 1), value=num_classes)
    log_size = F.pad(boxes.dims.to(lidar2img).log(), (0, 0, 0, 1))
    log_depth = F.pad(depth.clamp(min=NEAREST).log(), (0, 0, 0, 1))
    view = torch.arange(len(lidar2img), device=lidar2img.device)[:, None, None]
    return CameraTargets(labels[nearest], log_depth[nearest, view], log_size[nearest])


def _half_extents(corners: Tensor, lidar2img: Tensor, center_uv: Tensor) -> Tensor:
    """``(V, N, 2)`` pixels from the centre to the nearer edge of the box's image, u and v."""
    homogeneous = F.pad(corners, (0, 1), value=1.0)
    projected = torch.einsum('vij,ncj->vnci', lidar2img, homogeneous)
    uv = projected[..., :2] / projected[..., 2:3].clamp(min=NEAREST)  # (V, N, 8, 2)
    below, above = center_uv - uv.amin(dim=2), uv.amax(dim=2) - center_uv
    return below.minimum(above).clamp(min=0)
