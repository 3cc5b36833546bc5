"""Positions of tokens and queries in CMT and their learned embeddings (Yan et al., ICCV 2023).

Shape letters: B batch, V cameras, H x W BEV cells, h x w camera feature cells, Q queries,
D depths, C channels. Points are in metres in the LiDAR frame unless a name says ``normalized``:
then they lie in [0, 1] over the point-cloud range ``(x_min, y_min, z_min, x_max, y_max, z_max)``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Keeps the perspective division finite for points in a camera's own plane (released value).
DEPTH_EPS = 1e-6

# In metres; a tensor (6,) saves a copy to the device.
PointRange = Sequence[float] | Tensor


@dataclass(frozen=True)
class CameraGeometry:
    """Calibration of a batch."""

    lidar2img: Tensor  # (B, V, 4, 4) LiDAR frame (metres) to pixels of the padded input
    img2lidar: Tensor  # (B, V, 4, 4) its inverse
    pad_shape: tuple[int, int]  # (H, W) of the padded input, in pixels


def common_image_shape(shape: Sequence) -> tuple[int, int]:
    """``(H, W)`` in pixels of a sample's images, from any ``pad_shape`` that a pipeline gives.

    Raises ValueError if it is not understood, or the views differ.
    """
    # pipelines of mmdet3d 1.0 give a list with the shape of each view
    views = [tuple(view) for view in (shape if hasattr(shape[0], '__len__') else [shape])]
    if len({view[:2] for view in views}) != 1 or {len(view) for view in views} - {2, 3}:
        raise ValueError(
            f'pad_shape={shape} in img_metas is not understood: it must be (H, W), (H, W, '
            'channels) or a list with one of these for each view, all of the same size. Resize '
            'the images to one size (ResizeCropFlipImage does).'
        )
    return int(views[0][0]), int(views[0][1])


def camera_geometry(img_metas: Sequence[dict], like: Tensor) -> CameraGeometry | None:
    """Calibration of a batch, in the type and on the device of a tensor; None where samples have
    no ``lidar2img``, or no ``pad_shape`` as without images.

    Raises ValueError if images differ in size, within a sample or a batch.
    """
    if any(key not in meta for meta in img_metas for key in ('lidar2img', 'pad_shape')):
        return None
    shapes = {common_image_shape(meta['pad_shape']) for meta in img_metas}
    if len(shapes) > 1:
        raise ValueError(
            f'pad_shape differs within a batch: {sorted(shapes)}. Resize the images to one size '
            '(ResizeCropFlipImage does).'
        )
    # float64: the inverse of a projection loses three digits
    of_samples = [
        torch.stack([torch.as_tensor(view, dtype=torch.float64) for view in meta['lidar2img']])
        for meta in img_metas
    ]
    lidar2img = torch.stack(of_samples)
    both = torch.stack((lidar2img, torch.linalg.inv(lidar2img)))
    lidar2img, img2lidar = both.to(like, non_blocking=True)
    return CameraGeometry(lidar2img, img2lidar, shapes.pop())


def pos2embed(positions: Tensor, num_pos_feats: int) -> Tensor:
    """Sines and cosines ``(..., 2 * num_pos_feats)`` of normalized x, y, ``(..., 2 or more)``.

    Those of y come before x. Unlike the usual sine encoding the divisor grows linearly with the
    channel, not with a power of a temperature; trained weights depend on it.
    """
    return axis_embedding(positions[..., :2].flip(-1), num_pos_feats).flatten(-2)


def axis_embedding(coordinate: Tensor, num_pos_feats: int) -> Tensor:
    """``(..., num_pos_feats)`` sines and cosines by turns of one coordinate, ``(...)``."""
    channel = torch.arange(num_pos_feats, device=coordinate.device)
    angles = coordinate[..., None] * (2 * math.pi) / period(channel, num_pos_feats)
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)


def period(channel: Tensor, num_pos_feats: int) -> Tensor:
    """Periods, from 1 to nearly 2, of :func:`axis_embedding`'s channels; a pair has the same."""
    return 2 * torch.div(channel.float(), 2, rounding_mode='floor') / num_pos_feats + 1


def cell_centers(num_cells: int, device: torch.device | str) -> Tensor:
    """``(num_cells,)`` normalized centres of the BEV cells along one axis.

    NOTE: the released code mixes the axes up, which shows in maps that are not square.
    """
    return (torch.arange(num_cells, dtype=torch.float32, device=device) + 0.5) / num_cells


def bev_cell_centers(bev_shape: tuple[int, int], device: torch.device | str) -> Tensor:
    """``(H * W, 2)`` normalized centres x and y of a map's ``(H, W)`` cells, row-major."""
    y, x = (cell_centers(size, device) for size in bev_shape)
    return torch.cartesian_prod(y, x).flip(-1)


def camera_cell_pixels(
    feature_shape: tuple[int, int], pad_shape: tuple[int, int], device: torch.device | str
) -> Tensor:
    """``(h, w, 2)`` pixels u, v of the upper left corners of a feature map's ``(h, w)`` cells."""
    v, u = (
        torch.arange(cells, dtype=torch.float32, device=device) * pixels / cells
        for cells, pixels in zip(feature_shape, pad_shape, strict=True)
    )
    return torch.cartesian_prod(v, u).flip(-1).unflatten(0, feature_shape)


def range_limits(pc_range: PointRange, like: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper limits ``(3,)`` of a range, in the type and on the device of a tensor."""
    limits = torch.as_tensor(pc_range, dtype=like.dtype, device=like.device)
    return limits[:3], limits[3:]


def denormalize_points(normalized: Tensor, pc_range: PointRange) -> Tensor:
    """Map normalized points ``(..., 3)`` to metres in the LiDAR frame."""
    low, high = range_limits(pc_range, normalized)
    return normalized * (high - low) + low


def normalize_points(points: Tensor, pc_range: PointRange) -> Tensor:
    """Map points ``(..., 3)`` in metres in the LiDAR frame to [0, 1] over the range."""
    low, high = range_limits(pc_range, points)
    return (points - low) / (high - low)


def project_to_cameras(
    points: Tensor, lidar2img: Tensor, pad_shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Project points ``(B, Q, 3)``, in metres, into every camera of a :class:`CameraGeometry`.

    It gives ``(B, V, Q, 3)`` u, v in pixels and the depth divided by itself, and ``(B, V, Q)``
    whether the point lies in front of the camera and inside ``[0, W) x [0, H)``. The divisor
    carries no gradient, as in the released code.
    """
    homogeneous = F.pad(points, (0, 1), value=1.0)
    projected = torch.einsum('bvij,bqj->bvqi', lidar2img, homogeneous)
    depth = projected[..., 2:3].detach()
    in_front = depth > 0
    pixels = projected[..., :3] / (depth + torch.where(in_front, DEPTH_EPS, -DEPTH_EPS))
    u, v = pixels[..., 0], pixels[..., 1]
    visible = (u >= 0) & (u < pad_shape[1]) & (v >= 0) & (v < pad_shape[0])
    return pixels, visible & in_front.squeeze(-1)


class PositionEmbedding(nn.Sequential):
    """Two linear layers with a ReLU between; 0 and 2 are their names in checkpoints."""

    def __init__(self, inputs: int, hidden: int, channels: int) -> None:
        layers = nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        super().__init__(*layers)

    @property
    def linears(self) -> tuple[nn.Linear, nn.Linear]:
        """The first and the last layer."""
        return cast(nn.Linear, self[0]), cast(nn.Linear, self[2])


class BevEmbedding(PositionEmbedding):
    """Embeds places in the BEV plane."""

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels, channels, channels)
        self.channels = channels

    def forward(self, points: Tensor) -> Tensor:
        """``(..., C)`` of ``(..., 2 or more)`` normalized x and y."""
        return super().forward(pos2embed(points, self.channels))

    def of_cells(self, bev_shape: tuple[int, int]) -> Tensor:
        """``(H * W, C)`` of the centres of all cells, row-major.

        The encoding of a cell is that of its row beside that of its column, so the first layer's
        output is a sum of one part for each of them: H + W products instead of H * W.
        """
        first, last = self.linears
        of_row, of_column = (
            axis_embedding(cell_centers(size, weight.device), self.channels) @ weight.T
            for size, weight in zip(bev_shape, first.weight.chunk(2, dim=1), strict=True)
        )
        return last(((of_row + first.bias)[:, None] + of_column).flatten(0, 1).relu_())


class RayEmbedding(PositionEmbedding):
    """Embeds rays of cameras by their points at ``depth_num`` depths, normalized by the range.

    Called with the points ``(..., D * 3)``, depth by depth, it gives ``(..., C)``.
    """

    range_limits: Tensor

    def __init__(self, channels: int, depth_num: int, pc_range: Sequence[float]) -> None:
        super().__init__(3 * depth_num, 4 * channels, channels)
        self.register_buffer('range_limits', torch.tensor(pc_range).float(), persistent=False)
        self.depth_num, self.max_depth = depth_num, pc_range[3]

    @property
    def depths(self) -> Tensor:
        """``(D,)`` metres: from 1 m to short of the range's largest x."""
        device = self.range_limits.device
        steps = torch.arange(self.depth_num, dtype=torch.float32, device=device)
        return 1 + steps * (self.max_depth - 1) / self.depth_num

    def of_pixels(self, pixels: Tensor, cameras: CameraGeometry) -> Tensor:
        """``(B, V, ..., C)`` of rays through ``(B, V, ..., 3)`` pixels u, v and a depth factor.

        A ray's points are an affine function of its pixel, so the first layer's output is one as
        well: three products a pixel and output instead of ``3 * D``, and no points to store.
        """
        (first, last), img2lidar = self.linears, cameras.img2lidar
        weight = first.weight.unflatten(1, (-1, 3))  # (out, D, 3)
        low, high = range_limits(self.range_limits, pixels)
        along = (weight * self.depths[:, None]).sum(1) / (high - low)  # (out, 3), for a metre
        at_start = weight.sum(1) / (high - low)
        matrix = along @ img2lidar[..., :3, :3]  # (B, V, out, 3)
        offset = (img2lidar[..., :3, 3] - low) @ at_start.T  # (B, V, out)
        offset = (offset + first.bias).unsqueeze(2)
        hidden = pixels.flatten(2, -2) @ matrix.transpose(-1, -2) + offset
        return last(hidden.unflatten(2, pixels.shape[2:-1]).relu_())

    def of_cells(self, shape: tuple[int, int], cameras: CameraGeometry) -> Tensor:
        """``(B, V * h * w, C)`` of the upper left corners of all feature cells."""
        pixels = camera_cell_pixels(shape, cameras.pad_shape, cameras.img2lidar.device)
        pixels = F.pad(pixels, (0, 1), value=1.0)  # (h, w, 3)
        pixels = pixels.expand(*cameras.img2lidar.shape[:2], -1, -1, -1)
        return self.of_pixels(pixels, cameras).flatten(1, 3)

    def of_points(self, points: Tensor, cameras: CameraGeometry) -> Tensor:
        """``(B, Q, C)`` of ``(B, Q, 3)`` normalized points: the sum over cameras that see them."""
        metres = denormalize_points(points, self.range_limits)
        pixels, visible = project_to_cameras(metres, cameras.lidar2img, cameras.pad_shape)
        return (self.of_pixels(pixels, cameras) * visible.unsqueeze(-1)).sum(dim=1)
