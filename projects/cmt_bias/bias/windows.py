"""Where the windows of a batch's queries lie: around their reference points, in every map.

Shape letters: B batch, Q queries, V views, S segments (BEV map and views).
"""

import torch
from torch import Tensor

from ..cmt.position_encoding import (
    CameraGeometry,
    PointRange,
    denormalize_points,
    project_to_cameras,
)
from ..ops import NOT_SEEN, QueryWindows, TokenLayout, Window


def find_windows(
    reference_points: Tensor,
    layout: TokenLayout,
    cameras: CameraGeometry | None,
    pc_range: PointRange,
    shapes: tuple[Window, Window],
) -> QueryWindows:
    """Find the cell of every query in the BEV map and in each view.

    It is the cell that holds the reference point: in a view, if the point lies in front of the
    camera and inside the image. A query that no camera sees has no camera window.

    Args:
        reference_points: ``(B, Q, 3)`` normalized over ``pc_range``; they get no gradient.
        layout: Tokens of the memory.
        cameras: Calibration; may be None without camera tokens.
        pc_range: ``(x_min, y_min, z_min, x_max, y_max, z_max)`` in metres.
        shapes: Window in the BEV map and in a view's feature map.

    Returns:
        The windows, on a GPU sorted.
    """
    points = reference_points.detach().clamp(0, 1)
    cells = []
    if layout.bev_shape is not None:
        # x runs along columns, y along rows
        bev = _cells(points[..., 1], points[..., 0], (1, 1), layout.bev_shape, None)
        cells.append(bev[:, None])
    if layout.view_shape is not None:
        assert cameras is not None
        metres, lidar2img = denormalize_points(points, pc_range), cameras.lidar2img.to(points)
        pixels, visible = project_to_cameras(metres, lidar2img, cameras.pad_shape)
        u, v, _ = pixels.unbind(-1)
        cells.append(_cells(v, u, cameras.pad_shape, layout.view_shape, visible))
    of_queries = torch.cat(cells, dim=1).transpose(1, 2).contiguous()
    windows = QueryWindows(layout, of_queries, shapes)
    return windows.sorted() if of_queries.is_cuda else windows


def _cells(
    down: Tensor,
    right: Tensor,
    size: tuple[int, int],
    shape: tuple[int, int],
    visible: Tensor | None,
) -> Tensor:
    """``(..., 2)`` int32 row and column of points in a map whose sides have these lengths.

    A point on the upper end belongs to the last cell, one that is not visible is NOT_SEEN.
    """
    cells = []
    for along, length, number in zip((down, right), size, shape, strict=True):
        cell = along * number / length
        if visible is not None:  # others may have any coordinates, which no integer holds
            cell = cell.where(visible, NOT_SEEN)
        cells.append(cell.int().clamp(max=number - 1))
    return torch.stack(cells, dim=-1)
