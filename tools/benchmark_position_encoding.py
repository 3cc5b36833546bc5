"""Time of CMT's position embeddings: layer on each embedding, and as the head computes them.

Example:
    python tools/benchmark_position_encoding.py

Processor time of one thread, so that a busy machine matters little; medians of 5.
"""

import statistics
import time
import timeit
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor

from cmt_bias.cmt.position_encoding import (
    BevEmbedding,
    CameraGeometry,
    RayEmbedding,
    bev_cell_centers,
    camera_cell_pixels,
    normalize_points,
)

CHANNELS, DEPTHS, VIEWS = 256, 64, 6
PC_RANGE = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
# BEV map, camera features, network input
SIZES = {
    '800x320': ((128, 128), (20, 50), (320, 800)),
    '1600x640': ((180, 180), (40, 100), (640, 1600)),
}
Embedding = Callable[[], Tensor]


def camera_rays(pixels: Tensor, img2lidar: Tensor, depths: Tensor) -> Tensor:
    """Points of rays, depth by depth: ``(B, V, h, w, D * 3)``, normalized over the range."""
    points = pixels.unsqueeze(-2) * depths[:, None]
    rotation, translation = img2lidar[..., :3, :3], img2lidar[..., :3, 3]
    points = torch.einsum('bvij,bvhwdj->bvhwdi', rotation, points)
    points = points + translation[:, :, None, None, None]
    return normalize_points(points, PC_RANGE).flatten(-2)


def embeddings(
    bev_shape: tuple[int, int], feature_shape: tuple[int, int], pad_shape: tuple[int, int]
) -> dict[str, tuple[Embedding, Embedding]]:
    """For BEV grid and camera rays the plain and the head's computation."""
    torch.manual_seed(0)
    of_places = BevEmbedding(CHANNELS)
    of_rays = RayEmbedding(CHANNELS, DEPTHS, PC_RANGE)
    img2lidar = torch.randn(1, VIEWS, 4, 4)
    cameras = CameraGeometry(img2lidar.inverse(), img2lidar, pad_shape)
    pixels = camera_cell_pixels(feature_shape, pad_shape, 'cpu')
    pixels = torch.cat((pixels, torch.ones_like(pixels[..., :1])), dim=-1)
    pixels = pixels.expand(1, VIEWS, -1, -1, -1)
    centers = bev_cell_centers(bev_shape, 'cpu')
    return {
        'BEV grid': (lambda: of_places(centers), lambda: of_places.of_cells(bev_shape)),
        'camera rays': (
            lambda: of_rays(camera_rays(pixels, img2lidar, of_rays.depths)),
            lambda: of_rays.of_cells(feature_shape, cameras),
        ),
    }


def milliseconds(function: Callable[[], object]) -> float:
    """Median processor time of five calls, after one to warm up."""
    _, *spent = timeit.repeat(function, timer=time.process_time, repeat=6, number=1)
    return 1000 * statistics.median(spent)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows = []
    for size, shapes in SIZES.items():
        for name, ways in embeddings(*shapes).items():
            forward = [milliseconds(way) for way in ways]
            both = [milliseconds(lambda way=way: way().sum().backward()) for way in ways]  # type: ignore[misc]
            rows += [[size, name, 'forward', *forward], [size, name, 'forward + backward', *both]]
    headers = ('size', 'embedding', 'pass', 'layer on each, ms', 'as the head does, ms')
    print(tabulate(rows, headers, tablefmt='pipe', floatfmt='.0f'))


if __name__ == '__main__':
    main()
