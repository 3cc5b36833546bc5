"""Tokens of the sensors, and the learned embeddings of positions of tokens and queries.

Shape letters: B batch, V cameras, H x W BEV cells, h x w camera feature cells, Q queries,
K tokens, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..ops import TokenLayout
from .position_encoding import (
    CameraGeometry,
    bev_grid_hidden,
    camera_cell_pixels,
    camera_ray_hidden,
    common_image_shape,
    denormalize_points,
    pos2embed,
    project_to_cameras,
    ray_depths,
)


@dataclass(frozen=True)
class Memory:
    """The tokens that queries attend to: BEV cells, then camera cells, each row-major."""

    tokens: Tensor  # (B, K, C) with K = H * W + V * h * w, less a sensor that is missing
    pos: Tensor  # (B, K, C) position encodings
    layout: TokenLayout


class PositionEmbedding(nn.Sequential):
    """Two linear layers with a ReLU between; 0 and 2 are their names in checkpoints."""

    def __init__(self, inputs: int, hidden: int, channels: int) -> None:
        layers = nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        super().__init__(*layers)
        self.channels = channels

    @property
    def first(self) -> nn.Linear:
        """The first layer."""
        return cast(nn.Linear, self[0])

    @property
    def last(self) -> nn.Linear:
        """The last layer."""
        return cast(nn.Linear, self[2])


class BevEmbedding(PositionEmbedding):
    """Embeds places in the BEV plane."""

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels, channels, channels)

    def forward(self, points: Tensor) -> Tensor:
        """``(..., C)`` of ``(..., 2 or more)`` normalized x and y."""
        return super().forward(pos2embed(points, self.channels))

    def of_cells(self, bev_shape: tuple[int, int]) -> Tensor:
        """``(H * W, C)`` of the centres of all cells, row-major."""
        return self.last(bev_grid_hidden(bev_shape, self.first).relu_())


class RayEmbedding(PositionEmbedding):
    """Embeds rays of cameras by their points at ``depth_num`` depths, normalized by the range."""

    range_limits: Tensor

    def __init__(self, channels: int, depth_num: int, pc_range: Sequence[float]) -> None:
        super().__init__(3 * depth_num, 4 * channels, channels)
        self.depth_num, self.max_depth = depth_num, pc_range[3]
        self.register_buffer('range_limits', torch.tensor(pc_range).float(), persistent=False)

    def of_pixels(self, pixels: Tensor, cameras: CameraGeometry) -> Tensor:
        """``(B, V, ..., C)`` of the rays through ``(B, V, ..., 3)`` pixels u, v, 1."""
        depths = ray_depths(self.depth_num, self.max_depth, pixels.device)
        rays = pixels, cameras.img2lidar, depths, self.range_limits
        return self.last(camera_ray_hidden(*rays, self.first).relu_())

    def of_cells(self, shape: tuple[int, int], cameras: CameraGeometry) -> Tensor:
        """``(B, V * h * w, C)`` of the upper left corners of all feature cells."""
        pixels = camera_cell_pixels(shape, cameras.pad_shape, cameras.img2lidar.device)
        pixels = torch.cat((pixels, torch.ones_like(pixels[..., :1])), dim=-1)  # (h, w, 3)
        pixels = pixels.expand(*cameras.img2lidar.shape[:2], -1, -1, -1)
        return self.of_pixels(pixels, cameras).flatten(1, 3)

    def of_points(self, points: Tensor, cameras: CameraGeometry) -> Tensor:
        """``(B, Q, C)`` of ``(B, Q, 3)`` normalized points: the sum over cameras that see them."""
        metres = denormalize_points(points, self.range_limits)
        pixels, visible = project_to_cameras(metres, cameras.lidar2img, cameras.pad_shape)
        return (self.of_pixels(pixels, cameras) * visible.unsqueeze(-1)).sum(dim=1)


def camera_geometry(img_metas: Sequence[dict], like: Tensor) -> CameraGeometry | None:
    """Calibration of a batch, in the type and on the device of a tensor; None where samples have
    no ``lidar2img``, or no ``pad_shape`` as without images.

    Raises:
        ValueError: If images differ in size, within a sample or a batch.
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
    lidar2img = torch.as_tensor(
        np.stack([np.asarray(meta['lidar2img'], dtype=np.float64) for meta in img_metas])
    )
    both = torch.stack((lidar2img, torch.linalg.inv(lidar2img)))
    lidar2img, img2lidar = both.to(like, non_blocking=True)
    return CameraGeometry(lidar2img, img2lidar, shapes.pop())
