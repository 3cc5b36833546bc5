"""A LiDAR that sees a sector only."""

from collections.abc import Mapping

import numpy as np
import torch
from mmdet3d.registry import TRANSFORMS

from .sensor_failure import SensorFailure
from .spoiled_parts import SpoiledPart, sector_regions


@TRANSFORMS.register_module()
class LiDARFieldOfView(SensorFailure):
    """Keep the points of a sector around the vehicle's forward axis, seen from the LiDAR.

    "Limited field of view" of nuScenes-R (Yu et al., arXiv 2205.14951) and MoME, +-60 degrees.
    nuScenes' LiDAR frame has y forward and x to the right; the mounting in the info file
    (``lidar2ego``) says it exactly, to a fraction of a degree, and is used where it is given.

    Args:
        half_angle: Half the sector, degrees: 60 keeps [-60, 60].
        seed: Unused; nothing is random.

    Raises:
        ValueError: If ``half_angle`` is no angle between 0 and 180.
    """

    spoiled = ('points',)
    must_change = False  # what lay outside the sector may have been empty

    def __init__(self, half_angle: float = 60.0, seed: int = 0) -> None:
        super().__init__(seed)
        if not 0 < half_angle < 180:
            raise ValueError(f'LiDARFieldOfView: half_angle={half_angle} must be within (0, 180)')
        self.half_angle = half_angle

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        """See :meth:`SensorFailure.spoil`."""
        points = results['points']
        forward = forward_axis(results)
        x, y = points.tensor[:, 0], points.tensor[:, 1]
        ahead = x * forward[0] + y * forward[1]
        left = y * forward[0] - x * forward[1]
        angle = torch.rad2deg(torch.atan2(left, ahead))
        results['points'] = points[angle.abs() <= self.half_angle]
        azimuth = np.arctan2(forward[1], forward[0])
        start, stop = azimuth + np.deg2rad((self.half_angle, 360 - self.half_angle))
        return SpoiledPart(regions=sector_regions(start, stop))


def forward_axis(results: Mapping) -> tuple[float, float]:
    """The vehicle's forward direction, a unit vector (x, y) of the LiDAR frame."""
    mounting = results.get('lidar_points', {}).get('lidar2ego')
    if mounting is None:
        return 0.0, 1.0
    # The ego frame's x axis is forward; a rotation's inverse is its transpose.
    forward = np.asarray(mounting, dtype=np.float64)[0, :2]
    forward = forward / np.linalg.norm(forward)
    return float(forward[0]), float(forward[1])
