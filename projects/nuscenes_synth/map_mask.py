"""Map masks: where on a location's map vehicles and people may be."""

from pathlib import Path

import cv2
import numpy as np

from .road import Ground, Road
from .settings import MAP_CELL_SIZE

MAP_RESOLUTION = 0.1  # metres per pixel, fixed by the devkit
_COARSE_STEP = 0.5


def write_map_mask(path: Path, roads: list[Road]) -> None:
    """Write the mask of one location as a PNG, 255 on roads, parking strips and sidewalks.

    Args:
        path: File to write.
        roads: The location's streets in world coordinates; the map spans the patches of
            ``MAP_CELL_SIZE`` metres from the world's origin to the last street, y upwards.

    Raises:
        OSError: If the file cannot be written.
    """
    cell = int(MAP_CELL_SIZE / _COARSE_STEP)
    patches = [tuple(int(value // MAP_CELL_SIZE) for value in road.origin) for road in roads]
    columns, rows = (1 + max(position) for position in zip(*patches, strict=True))
    mask = np.zeros((rows * cell, columns * cell), dtype=np.uint8)
    for road, (column, row) in zip(roads, patches, strict=True):
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
