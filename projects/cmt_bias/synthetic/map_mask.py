"""Map masks: where on a location's map vehicles and people may be."""

from pathlib import Path

import cv2
import numpy as np

from .configuration import MAP_CELL_SIZE, MAP_CELLS
from .road import Ground, Road

MAP_RESOLUTION = 0.1  # metres per pixel, fixed by the devkit
_COARSE_STEP = 0.5


def write_map_mask(path: Path, roads: list[Road]) -> None:
    """Write the mask of one location as a PNG, 255 on roads, parking strips and sidewalks.

    Args:
        path: File to write.
        roads: The location's streets in world coordinates; the map spans
            ``MAP_CELLS`` x ``MAP_CELLS`` patches from the world's origin, y upwards.

    Raises:
        OSError: If the file cannot be written.
    """
    size = int(MAP_CELLS * MAP_CELL_SIZE / _COARSE_STEP)
    mask = np.zeros((size, size), dtype=np.uint8)
    for road in roads:
        column, row = (int(value // MAP_CELL_SIZE) for value in road.origin)
        cell = int(MAP_CELL_SIZE / _COARSE_STEP)
        centers = (np.arange(cell) + 0.5) * _COARSE_STEP
        x, y = np.meshgrid(centers + column * MAP_CELL_SIZE, centers + row * MAP_CELL_SIZE)
        ground = road.ground_at(x.ravel(), y.ravel()).reshape(cell, cell)
        window = mask[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        window[ground != Ground.GRASS] = 255
    factor = round(_COARSE_STEP / MAP_RESOLUTION)
    full = np.repeat(np.repeat(mask[::-1], factor, axis=0), factor, axis=1)
    ok, encoded = cv2.imencode('.png', full)
    if not ok:
        raise OSError(f'OpenCV could not encode {path}')
    path.write_bytes(encoded.tobytes())
