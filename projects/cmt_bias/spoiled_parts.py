"""Which part of a sample's input is spoiled: whole sensors, or what some queries see.

A sample tells it by three keys: ``spoiled_sensors``, letters of 'LC' ('' for none);
``spoiled_views``, a bool array (V,) of the cameras; and ``spoiled_regions``, an array (R, 4, 2) of
convex quadrilaterals on the ground, counter-clockwise, in metres of the LiDAR frame in which the
points were loaded. ``lidar_aug_matrix`` says where augmentation has moved that frame.
"""

from typing import NamedTuple

import numpy as np

SPOILED_SENSORS_KEY = 'spoiled_sensors'
SPOILED_VIEWS_KEY = 'spoiled_views'
SPOILED_REGIONS_KEY = 'spoiled_regions'

FAR = 1e4  # metres: farther than any sensor sees
MARGIN = 1.0  # metres around a spoiled object
EVERYWHERE = np.array([[[-FAR, -FAR], [FAR, -FAR], [FAR, FAR], [-FAR, FAR]]])


class SpoiledPart(NamedTuple):
    """What a failure has spoiled of the sensors that it acts on; None for all of one."""

    views: np.ndarray | None = None  # (V,) bool, the cameras
    regions: np.ndarray | None = None  # (R, 4, 2) quadrilaterals in which the LiDAR is spoiled


def add_spoiled(results: dict, sensors: str, part: SpoiledPart | None = None) -> None:
    """Add sensors, letters of 'LC', or a part of them, to what is spoiled of a sample."""
    part = part or SpoiledPart()
    spoiled = {*sensors, *results.get(SPOILED_SENSORS_KEY, '')}
    results[SPOILED_SENSORS_KEY] = ''.join(letter for letter in 'LC' if letter in spoiled)
    num_views = len(results.get('img', results.get('lidar2img', ())))
    if 'C' in sensors and num_views:
        views = np.ones(num_views, dtype=bool) if part.views is None else part.views
        results[SPOILED_VIEWS_KEY] = views | results.get(SPOILED_VIEWS_KEY, False)
    if 'L' in sensors:
        regions = EVERYWHERE if part.regions is None else part.regions
        earlier = results.get(SPOILED_REGIONS_KEY, np.zeros((0, 4, 2)))
        results[SPOILED_REGIONS_KEY] = np.concatenate((earlier, regions))


def sector_regions(start: float, stop: float) -> np.ndarray:
    """Triangles (R, 4, 2) from the sensor, a quarter turn each at most, that cover a sector.

    Azimuths are in radians, counter-clockwise from the x axis.
    """
    number = max(1, int(np.ceil((stop - start) / (np.pi / 2))))
    azimuth = np.linspace(start, stop, number + 1)
    ends = FAR * np.stack((np.cos(azimuth), np.sin(azimuth)), axis=1)
    sensor = np.zeros((number, 2))
    return np.stack((sensor, ends[:-1], ends[1:], sensor), axis=1)


def box_regions(boxes: np.ndarray) -> np.ndarray:
    """Footprints (M, 4, 2) of boxes and of :data:`MARGIN` around them.

    Boxes are (M, 7 or more): x, y, z, sizes along x and y of the box, height, yaw; LiDAR frame.
    """
    half = boxes[:, 3:5] / 2 + MARGIN
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    local = half[:, None] * signs
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    rotation = np.array([[cos, -sin], [sin, cos]])  # (2, 2, M)
    return np.einsum('ijm,mkj->mki', rotation, local) + boxes[:, None, :2]
