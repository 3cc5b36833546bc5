"""Which tokens lie in the windows of a query.

The memory that the decoder attends to holds the LiDAR's tokens (BEV cells, row-major), then the
cameras' (view by view, row-major). Shape letters: B batch, Q queries, V views, W window slots of a
query, Hb x Wb BEV cells, h x w camera feature cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..cmt.position_encoding import denormalize_points, project_to_cameras
from ..ops import WindowPlan, plan_windows

Modality = Literal['lidar', 'camera']
MODALITIES: tuple[Modality, ...] = ('lidar', 'camera')


@dataclass(frozen=True)
class WindowShape:
    """Size and profile of a modality's window.

    Attributes:
        size: Odd number of cells along each side; None for the whole modality.
        sigma: Cells; a cell at distance ``d`` of the window's middle cell has the gain
            ``exp(-d^2 / (2 sigma^2))``. None gives every cell the gain 1.
    """

    size: int | None
    sigma: float | None = None


@dataclass(frozen=True)
class Windows:
    """The tokens in the windows of each query of a batch.

    Attributes:
        index: ``(B, Q, W)`` int64 indices of tokens in the memory, -1 where a slot has none.
        gain: ``(B, Q, W)`` the window's profile g, 0 where a slot has no token.
        num_lidar_slots: The first so many slots are the LiDAR's, the others the cameras'.
        whole: Token ranges ``{modality: (start, stop)}`` of modalities without a window: each of
            their tokens counts for every query.
        num_tokens: Tokens K of the memory.
        plan: What attention needs to know about ``index``, found out once for all layers.
        points: ``(B, Q, 3)`` reference points, metres, LiDAR frame.
        seen_by: ``(B, Q, V)`` bool, the views that see them; None without cameras.
    """

    index: Tensor
    gain: Tensor
    num_lidar_slots: int
    whole: dict[Modality, tuple[int, int]]
    num_tokens: int
    plan: WindowPlan
    points: Tensor | None = None
    seen_by: Tensor | None = None

    def to_mask(self) -> Tensor:
        """``(B, Q, K)`` bool, True for the tokens of a query's windows and whole modalities."""
        found = self.index >= 0
        mask = self.index.new_zeros(*self.index.shape[:2], self.num_tokens + 1)
        # slots without a token go to one more column, which is cut off
        index = self.index.where(found, self.num_tokens)
        mask = mask.scatter_(-1, index, 1)[..., :-1].bool()
        for start, stop in self.whole.values():
            mask[..., start:stop] = True
        return mask


def find_windows(
    reference_points: Tensor,
    lidar2img: Tensor | None,
    pad_shape: tuple[int, int] | None,
    bev_shape: tuple[int, int] | None,
    camera_shape: tuple[int, int, int] | None,
    pc_range: Sequence[float],
    lidar_window: WindowShape,
    camera_window: WindowShape,
) -> Windows:
    """Find the tokens in the windows of every query.

    A window is centred on the cell that holds the reference point: in the BEV map, and in every
    view in which the point lies in front of the camera and inside the image. It is cut at the
    edge of its map. A query that no camera sees has no camera window.

    Args:
        reference_points: ``(B, Q, 3)`` normalized over ``pc_range``.
        lidar2img: ``(B, V, 4, 4)`` LiDAR frame (metres) to pixels of the padded input; None
            without cameras.
        pad_shape: ``(H, W)`` of the padded input in pixels; None without cameras.
        bev_shape: ``(Hb, Wb)`` rows and columns of the BEV tokens; None without LiDAR.
        camera_shape: ``(V, h, w)`` views, rows and columns of the camera tokens; None without
            cameras.
        pc_range: ``(x_min, y_min, z_min, x_max, y_max, z_max)`` in metres.
        lidar_window: Window in the BEV map.
        camera_window: Window in a view's feature map.

    Returns:
        The windows; ``W`` holds the LiDAR's slots and as many camera windows as views see one
        query at most.
    """
    points = reference_points.detach().clamp(0, 1)
    num_bev_tokens = 0 if bev_shape is None else math.prod(bev_shape)
    num_camera_tokens = 0 if camera_shape is None else math.prod(camera_shape)
    whole: dict[Modality, tuple[int, int]] = {}
    no_slots = points.new_zeros(*points.shape[:2], 0)
    lidar = camera = (no_slots.long(), no_slots)
    metres = denormalize_points(points, pc_range)
    pixels = visible = None
    if lidar2img is not None and pad_shape is not None:
        pixels, visible = project_to_cameras(metres, lidar2img.to(points), pad_shape)
    if bev_shape is not None:
        if lidar_window.size is None:
            whole['lidar'] = (0, num_bev_tokens)
        else:
            lidar = _bev_windows(points, bev_shape, lidar_window)
    if camera_shape is not None:
        if camera_window.size is None:
            whole['camera'] = (num_bev_tokens, num_bev_tokens + num_camera_tokens)
        else:
            assert pixels is not None and visible is not None and pad_shape is not None
            index, gain = _camera_windows(pixels, visible, pad_shape, camera_shape, camera_window)
            camera = torch.where(index < 0, index, index + num_bev_tokens), gain
    index = torch.cat((lidar[0], camera[0]), dim=-1)
    num_tokens = num_bev_tokens + num_camera_tokens
    return Windows(
        index=index,
        gain=torch.cat((lidar[1], camera[1]), dim=-1),
        num_lidar_slots=lidar[0].shape[-1],
        whole=whole,
        num_tokens=num_tokens,
        plan=plan_windows(index, num_tokens),
        points=metres,
        seen_by=None if visible is None else visible.transpose(1, 2),
    )


def _bev_windows(
    points: Tensor, bev_shape: tuple[int, int], window: WindowShape
) -> tuple[Tensor, Tensor]:
    """``(B, Q, size^2)`` cells of the BEV map and gains; x runs along columns, y along rows."""
    row = (points[..., 1] * bev_shape[0]).long()
    column = (points[..., 0] * bev_shape[1]).long()
    row = row.clamp(max=bev_shape[0] - 1)  # the range's upper end belongs to the last cell
    column = column.clamp(max=bev_shape[1] - 1)
    return _cut_windows(row, column, bev_shape, window, points.dtype)


def _camera_windows(
    pixels: Tensor,
    visible: Tensor,
    pad_shape: tuple[int, int],
    camera_shape: tuple[int, int, int],
    window: WindowShape,
) -> tuple[Tensor, Tensor]:
    """``(B, Q, S * size^2)`` camera cells and gains, S the most views that see one point."""
    _, rows, columns = camera_shape
    num_slots = int(visible.sum(dim=1).amax()) if visible.numel() else 0
    # (B, Q, S): the views that see a point first, in their own order
    view = visible.transpose(1, 2).to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    view = view[..., :num_slots]
    visible = visible.transpose(1, 2).gather(-1, view)
    pixels = pixels.transpose(1, 2).gather(2, view[..., None].expand(-1, -1, -1, 3))
    # A point no camera sees may have any coordinates: its cell is not used, but must be a number.
    u, v = pixels[..., 0].where(visible, 0), pixels[..., 1].where(visible, 0)
    column = (u * columns / pad_shape[1]).long().clamp(max=columns - 1)
    row = (v * rows / pad_shape[0]).long().clamp(max=rows - 1)
    index, gain = _cut_windows(row, column, (rows, columns), window, pixels.dtype)
    index = index + (view * rows * columns)[..., None] * (index >= 0)
    index = index.where(visible[..., None], -1)
    return index.flatten(2), (gain * visible[..., None]).flatten(2)


def _cut_windows(
    row: Tensor, column: Tensor, shape: tuple[int, int], window: WindowShape, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Windows around cells, cut at the edge of their map.

    Returns:
        ``(..., size^2)`` row-major cell indices, -1 outside the map, and gains, 0 there.
    """
    assert window.size is not None
    offset = torch.arange(window.size, device=row.device) - window.size // 2
    rows = (row[..., None] + offset)[..., :, None]
    columns = (column[..., None] + offset)[..., None, :]
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    index = torch.where(inside, rows * shape[1] + columns, -1)
    if window.sigma is None:
        gain = inside.to(dtype)
    else:
        squared = (offset[:, None] ** 2 + offset**2).to(dtype)
        gain = inside * torch.exp(-squared / (2 * window.sigma**2))
    return index.flatten(-2), gain.flatten(-2)
