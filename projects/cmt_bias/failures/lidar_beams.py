"""A LiDAR of which few beams work."""

import numpy as np
import torch
from mmdet3d.registry import TRANSFORMS
from torch import Tensor

from .point_columns import NUM_RINGS, positions_when_taken, ring_column, rings_from_elevation
from .sensor_failure import SensorFailure


@TRANSFORMS.register_module()
class LiDARBeamReduction(SensorFailure):
    """Keep the points of a few rings, uniformly spaced over the 32 of the HDL-32E.

    "4 beams" of MoME (Park et al., CVPR 2025). The kept rings lie in the middle of equal parts:
    4, 12, 20 and 28 for four beams. The ring of a point is its ring index where the cloud still
    has one (see :mod:`.point_columns`), else that of its elevation, seen from where the LiDAR was
    when it took the point. Sweeps are reduced like the keyframe. On a keyframe of nuScenes 89 % of
    the points get their own ring by elevation, the others the next one: its clouds are corrected
    for the motion of the vehicle, which shifts near points of the lower rings.

    Args:
        num_beams: Beams that are left, 1 to 31.
        seed: Unused; nothing is random.

    Raises:
        ValueError: If ``num_beams`` is out of range.
    """

    spoiled = ('points',)

    def __init__(self, num_beams: int = 4, seed: int = 0) -> None:
        super().__init__(seed)
        if not 1 <= num_beams < NUM_RINGS:
            raise ValueError(
                f'LiDARBeamReduction: num_beams={num_beams} must be 1 to {NUM_RINGS - 1}'
            )
        self.num_beams = num_beams

    @property
    def kept_rings(self) -> Tensor:
        """Indices of the rings that are left, int64, 0 the lowest."""
        return ((torch.arange(self.num_beams) + 0.5) * NUM_RINGS / self.num_beams).long()

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        """See :meth:`SensorFailure.spoil`."""
        points = results['points']
        rings = ring_column(points.tensor)
        if rings is None:
            rings = rings_from_elevation(positions_when_taken(points.tensor, results))
        results['points'] = points[torch.isin(rings, self.kept_rings)]
