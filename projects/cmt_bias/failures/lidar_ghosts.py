"""A LiDAR that sees objects where there are none."""

import numpy as np
import torch
from mmdet3d.registry import TRANSFORMS

from .annotated_boxes import annotated_boxes, points_in_boxes
from .sensor_failure import SensorFailure
from .spoiled_parts import SpoiledPart, box_regions

_LEAST_TURN = np.pi / 6


@TRANSFORMS.register_module()
class LiDARGhosts(SensorFailure):
    """Ghost returns: the echoes of an object once more, in another direction.

    Mirrors such as wet roads, shop windows and other vehicles do so, and so does interference. A
    ghost has the points of a real object, turned about the sensor by 30 degrees or more, so that
    its distance and density are right and nothing but the cameras tells it from an object. What
    stands where it appears is not removed. Reads the annotations, as :class:`LiDARObjectFailure`.

    Args:
        probability: Chance of each object to have a ghost.
        seed: Seed of the draw.

    Raises:
        ValueError: If ``probability`` is not in (0, 1].
    """

    spoiled = ('points',)
    must_change = False  # a sample may have no object with points

    def __init__(self, probability: float = 1.0, seed: int = 0) -> None:
        super().__init__(seed)
        if not 0 < probability <= 1:
            raise ValueError(f'LiDARGhosts: probability={probability} must lie within (0, 1]')
        self.probability = probability

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        """See :meth:`SensorFailure.spoil`."""
        boxes = annotated_boxes(results, type(self).__name__)
        turns = rng.uniform(_LEAST_TURN, 2 * np.pi - _LEAST_TURN, len(boxes))
        doubled = rng.random(len(boxes)) < self.probability
        boxes, turns = boxes[doubled], turns[doubled]
        points = results['points']
        point, box = points_in_boxes(points.tensor, boxes).nonzero()
        ghosts = points.tensor[point].clone()
        ghosts[:, :2] = _turned(ghosts[:, :2], torch.from_numpy(turns[box]).to(ghosts))
        results['points'] = points.new_point(torch.cat((points.tensor, ghosts)))
        places = boxes.copy()
        places[:, :2] = _turned(torch.from_numpy(boxes[:, :2]), torch.from_numpy(turns)).numpy()
        places[:, 6] += turns
        return SpoiledPart(regions=box_regions(places[np.unique(box)]))


def _turned(positions: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Positions (N, 2), each turned counter-clockwise by its angle (N,)."""
    cos, sin = angles.cos(), angles.sin()
    x, y = positions.unbind(-1)
    return torch.stack((cos * x - sin * y, sin * x + cos * y), dim=-1)
