"""A LiDAR in fog."""

import math

import numpy as np
from mmdet3d.registry import TRANSFORMS

from .scattering import scatter_points
from .sensor_failure import SensorFailure
from .severity import at_severity

_LEVELS = (200.0, 100.0, 50.0)


@TRANSFORMS.register_module()
class LiDARFog(SensorFailure):
    """Fog on the points: attenuation with distance, and echoes from the fog itself.

    Severity 1, 2, 3 is a meteorological optical range of 200, 100, 50 m, at which the contrast
    has fallen to 5 %: the extinction coefficient is ``ln 20 / range``. Half of the lost echoes
    come back from the fog. See :func:`scatter_points`. The images stay clear.

    Args:
        severity: 1 to 3.
        seed: Seed of the draw.
    """

    spoiled = ('points',)

    def __init__(self, severity: int = 2, seed: int = 0) -> None:
        super().__init__(seed)
        self.severity = severity
        self.optical_range = at_severity(_LEVELS, severity, 'LiDARFog')

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        """See :meth:`SensorFailure.spoil`."""
        extinction = math.log(20) / self.optical_range
        results['points'] = scatter_points(results['points'], extinction, 0.5, rng)
