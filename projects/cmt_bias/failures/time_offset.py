"""A LiDAR whose clock runs behind that of the cameras."""

from collections.abc import Mapping, Sequence

import numpy as np
from mmdet3d.registry import TRANSFORMS
from torch import Tensor

from .annotated_boxes import annotated_boxes, points_in_boxes
from .point_columns import into_sweep_frame, sweep_lag
from .sensor_failure import SensorFailure
from .severity import at_severity

_LEVELS = (0.1, 0.2, 0.4)
_CLOSE_ENOUGH = 0.5  # the nearest sweep must have at least this share of the offset asked for


@TRANSFORMS.register_module()
class LiDARTimeOffset(SensorFailure):
    """The cloud as it was a moment ago, against the images and the boxes of now.

    The counterpart of MultiCorrupt's "temporal misalignment", made of what nuScenes' info files
    give: ``lidar_sweeps`` say how the LiDAR moved since an earlier sweep. The points of the
    annotated objects go back along the objects' velocity, and then all points into the LiDAR
    frame of that sweep, but are taken for current ones. So the cloud keeps its density and its
    sweeps; what it lacks is the turning of objects and what has come into view since. Severity
    1, 2, 3: 0.1, 0.2, 0.4 s, or the nearest that a sweep is old. A sample without such a sweep
    (the first of a scene has none) stays as it is, and so does a scene in which nothing moves.

    Images of an earlier sample would be the other way; an info file of a sample names its own
    images only.

    Args:
        severity: 1 to 3.
        seed: Unused; nothing is random.

    Raises:
        KeyError: If the dataset gives no annotations.
    """

    spoiled = ('points',)
    must_change = False

    def __init__(self, severity: int = 2, seed: int = 0) -> None:
        super().__init__(seed)
        self.severity = severity
        self.seconds = at_severity(_LEVELS, severity, 'LiDARTimeOffset')

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        """See :meth:`SensorFailure.spoil`."""
        sweep = self._nearest_sweep(results)
        if sweep is None:
            return
        points = results['points']
        cloud: Tensor = points.tensor.clone()
        offset = sweep_lag(results, sweep)
        boxes = annotated_boxes(results, type(self).__name__)
        inside = points_in_boxes(cloud, boxes)
        moving = inside.any(axis=1)
        velocity = boxes[inside[moving].argmax(axis=1), 7:9] if moving.any() else np.zeros((0, 2))
        cloud[moving, :2] -= cloud.new_tensor(velocity * offset)
        cloud[:, :3] = into_sweep_frame(cloud[:, :3], sweep)
        results['points'] = points.new_point(cloud)

    def _nearest_sweep(self, results: Mapping) -> Mapping | None:
        """The sweep whose age is nearest to the offset; None if none is old enough."""
        sweeps: Sequence[Mapping] = results.get('lidar_sweeps') or []
        by_distance = sorted(sweeps, key=lambda s: abs(sweep_lag(results, s) - self.seconds))
        if by_distance and sweep_lag(results, by_distance[0]) >= _CLOSE_ENOUGH * self.seconds:
            return by_distance[0]
        return None
