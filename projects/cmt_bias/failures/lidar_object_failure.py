"""A LiDAR that does not see some objects."""

import numpy as np
import torch
from mmdet3d.registry import TRANSFORMS

from .annotated_boxes import annotated_boxes, points_in_boxes
from .sensor_failure import SensorFailure
from .spoiled_parts import SpoiledPart, box_regions


@TRANSFORMS.register_module()
class LiDARObjectFailure(SensorFailure):
    """Drop all points in the boxes of objects that are drawn at random.

    "Object failure" of nuScenes-R (Yu et al., arXiv 2205.14951) and MoME, probability 0.5: black
    or wet objects do not echo. This is the one failure that reads the annotations of the tested
    samples; they decide which points go, and nothing else of them reaches the detector. Boxes are
    grown by 5 cm on each side, and moved back along their velocity for points of older sweeps.

    Args:
        probability: Chance of each object to lose its points.
        seed: Seed of the draw.

    Raises:
        ValueError: If ``probability`` is not in (0, 1].
    """

    spoiled = ('points',)
    must_change = False  # a sample may have no object, or none may be drawn

    def __init__(self, probability: float = 0.5, seed: int = 0) -> None:
        super().__init__(seed)
        if not 0 < probability <= 1:
            raise ValueError(
                f'LiDARObjectFailure: probability={probability} must lie within (0, 1]'
            )
        self.probability = probability

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        """See :meth:`SensorFailure.spoil`."""
        boxes = annotated_boxes(results, type(self).__name__)
        unseen = boxes[rng.random(len(boxes)) < self.probability]
        points = results['points']
        lost = points_in_boxes(points.tensor, unseen).any(axis=1)
        results['points'] = points[torch.from_numpy(~lost)]
        return SpoiledPart(regions=box_regions(unseen))
