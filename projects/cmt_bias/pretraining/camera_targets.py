"""Which object a camera cell shows, how far away and how large."""

from typing import NamedTuple

import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from torch import Tensor

from ..cmt.position_encoding import project_to_cameras

NEAREST = 0.5
"""Metres: a corner that is nearer to the image plane, or behind it, counts as this far."""

CORE = 0.25
"""Cells within this share of an object's extent on both sides of its centre show it."""


class CameraTargets(NamedTuple):
    """What the cells of all views of a sample show.

    Attributes:
        labels: ``(V, h, w)`` int64 class, ``num_classes`` for background.
        log_depth: ``(V, h, w)`` log of the depth of the box's centre, metres; 0 in background.
        log_size: ``(V, h, w, 3)`` log of width, length and height, metres; 0 in background.
    """

    labels: Tensor
    log_depth: Tensor
    log_size: Tensor


def camera_targets(
    boxes: LiDARInstance3DBoxes,
    labels: Tensor,
    lidar2img: Tensor,
    pad_shape: tuple[int, int],
    feature_shape: tuple[int, int],
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
    num_views, (rows, columns) = len(lidar2img), feature_shape
    if len(labels) == 0:
        empty = lidar2img.new_zeros(num_views, rows, columns)
        background = torch.full_like(empty, num_classes, dtype=torch.int64)
        return CameraTargets(background, empty, empty.unsqueeze(-1).expand(-1, -1, -1, 3))
    center = boxes.gravity_center.to(lidar2img)
    pixels, visible = project_to_cameras(center[None], lidar2img[None], pad_shape)
    center_uv, visible = pixels[0, ..., :2], visible[0]  # (V, N, 2), (V, N)
    depth = _homogeneous(center) @ lidar2img[:, 2].T  # (N, V)
    half_extent = _half_extents(boxes.corners.to(lidar2img), lidar2img, center_uv)

    stride = lidar2img.new_tensor((pad_shape[1] / columns, pad_shape[0] / rows))
    reach = (2 * CORE * half_extent).maximum(stride / 2)  # the cell of the centre at least
    v, u = torch.meshgrid(
        torch.arange(rows, device=stride.device) + 0.5,
        torch.arange(columns, device=stride.device) + 0.5,
        indexing='ij',
    )
    cells = torch.stack((u, v), dim=-1) * stride  # (h, w, 2)
    away = (cells - center_uv[:, :, None, None]).abs()  # (V, N, h, w, 2)
    shown = (away <= reach[:, :, None, None]).all(-1) & visible[..., None, None]
    distance = depth.T[..., None, None].where(shown, torch.inf)
    nearest = distance.argmin(dim=1)  # (V, h, w)
    found = shown.any(dim=1)
    view = torch.arange(num_views, device=stride.device)[:, None, None]
    log_depth = depth.T[view, nearest].clamp(min=NEAREST).log() * found
    log_size = boxes.dims.to(lidar2img)[nearest].log() * found[..., None]
    return CameraTargets(labels[nearest].where(found, num_classes), log_depth, log_size)


def _half_extents(corners: Tensor, lidar2img: Tensor, center_uv: Tensor) -> Tensor:
    """``(V, N, 2)`` pixels from the centre to the nearer edge of the box's image, u and v."""
    projected = torch.einsum('vij,ncj->vnci', lidar2img, _homogeneous(corners))
    uv = projected[..., :2] / projected[..., 2:3].clamp(min=NEAREST)  # (V, N, 8, 2)
    below, above = center_uv - uv.amin(dim=2), uv.amax(dim=2) - center_uv
    return below.minimum(above).clamp(min=0)


def _homogeneous(points: Tensor) -> Tensor:
    return torch.cat((points, torch.ones_like(points[..., :1])), dim=-1)
