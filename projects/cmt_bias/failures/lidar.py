"""A LiDAR that sees nothing, too little, too much, or the past."""

from collections.abc import Mapping

import numpy as np
import torch
from mmdet3d.registry import TRANSFORMS
from torch import Tensor

from ..datasets.box_overlap import points_in_boxes
from ..datasets.modal_mask import zeroed
from ..datasets.sensor_files import POINT_VALUES
from ..spoiled_parts import SpoiledPart, box_regions, sector_regions
from .point_columns import (
    NUM_RINGS,
    check_columns,
    into_sweep_frame,
    positions_when_taken,
    ring_column,
    rings_from_elevation,
    sweep_lag,
    time_lags,
)
from .recorded_files import file_at
from .sensor_failure import Degradation, SensorFailure

_MARGIN = 0.05  # metres: a box is annotated to this, and its points lie on its surface
_LEAST_TURN = np.pi / 6  # of a ghost
_CLOSE_ENOUGH = 0.5  # the nearest sweep must have at least this share of the offset asked for


class LiDARFailure(SensorFailure):
    """Base of the failures that replace the cloud."""

    spoiled = ('points',)


@TRANSFORMS.register_module()
class LiDARDrop(LiDARFailure):
    """The LiDAR is missing: all its points are zero, as :class:`ModalMask3D` makes them."""

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        results['points'] = zeroed(results['points'])


@TRANSFORMS.register_module()
class LiDARBeamReduction(LiDARFailure):
    """Keep the points of a few rings, uniformly spaced over the 32 of the HDL-32E.

    "4 beams" of MoME (Park et al., CVPR 2025). The kept rings lie in the middle of equal parts:
    4, 12, 20 and 28 for four beams. The ring of a point is its ring index where the cloud still
    has one (see :mod:`.point_columns`), else that of its elevation, seen from where the LiDAR was
    when it took the point: right for 89 % of the points of a keyframe of nuScenes and the next one
    for the others, as its clouds are corrected for the motion of the vehicle.

    Args:
        num_beams: Beams that are left, 1 to 31.
    """

    def __init__(self, num_beams: int = 4, seed: int = 0) -> None:
        super().__init__(seed)
        self.num_beams = num_beams
        self.check('num_beams', 1 <= num_beams < NUM_RINGS, f'be 1 to {NUM_RINGS - 1}')
        # indices of the rings that are left, 0 the lowest
        self.kept_rings = ((torch.arange(num_beams) + 0.5) * NUM_RINGS / num_beams).long()

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        points = results['points']
        rings = ring_column(points.tensor)
        if rings is None:
            rings = rings_from_elevation(positions_when_taken(points.tensor, results))
        results['points'] = points[torch.isin(rings, self.kept_rings)]


@TRANSFORMS.register_module()
class LiDARFieldOfView(LiDARFailure):
    """Keep the points of a sector around the vehicle's forward axis, seen from the LiDAR.

    "Limited field of view" of nuScenes-R (Yu et al., arXiv 2205.14951) and MoME, +-60 degrees.
    Forward is what the mounting in the info file (``lidar2ego``) says, or y without one.

    Args:
        half_angle: Half the sector, degrees, within (0, 180): 60 keeps [-60, 60].
    """

    def __init__(self, half_angle: float = 60.0, seed: int = 0) -> None:
        super().__init__(seed)
        self.half_angle = half_angle
        self.check('half_angle', 0 < half_angle < 180, 'be within (0, 180)')

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        points = results['points']
        # the ego frame's x axis; a rotation's inverse is its transpose
        mounting = results.get('lidar_points', {}).get('lidar2ego', [[0.0, 1.0]])
        forward = np.asarray(mounting, dtype=np.float64)[0, :2]
        cos, sin = map(float, forward / np.linalg.norm(forward))
        x, y = points.tensor[:, 0], points.tensor[:, 1]
        angle = torch.rad2deg(torch.atan2(y * cos - x * sin, x * cos + y * sin))
        results['points'] = points[angle.abs() <= self.half_angle]
        blind = np.arctan2(sin, cos) + np.deg2rad((self.half_angle, 360 - self.half_angle))
        return SpoiledPart(regions=sector_regions(*blind))


@TRANSFORMS.register_module()
class LiDARObjectFailure(LiDARFailure):
    """Drop all points in the boxes of objects that are drawn at random.

    "Object failure" of nuScenes-R (Yu et al., arXiv 2205.14951) and MoME, probability 0.5: black
    or wet objects do not echo. The annotations decide which points go; nothing else of them
    reaches the detector.

    Args:
        probability: Chance of each object to lose its points, in (0, 1].
    """

    def __init__(self, probability: float = 0.5, seed: int = 0) -> None:
        super().__init__(seed)
        self.probability = probability
        self.check('probability', 0 < probability <= 1, 'lie within (0, 1]')

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        boxes = annotated_boxes(results)
        unseen = boxes[rng.random(len(boxes)) < self.probability]
        points = results['points']
        lost = points_in_annotated_boxes(points.tensor, unseen).any(axis=1)
        results['points'] = points[torch.from_numpy(~lost)]
        return SpoiledPart(regions=box_regions(unseen))


@TRANSFORMS.register_module()
class LiDARGhosts(LiDARObjectFailure):
    """Ghost returns: the echoes of an object once more, in another direction.

    Wet roads, shop windows and other vehicles mirror, and interference does the same. A ghost has
    the points of a real object, turned about the sensor by 30 degrees or more, so that its
    distance and density are right and only the cameras tell it from an object. What stands where
    it appears is not removed.

    Args:
        probability: Chance of each object to have a ghost, in (0, 1].
    """

    def __init__(self, probability: float = 1.0, seed: int = 0) -> None:
        super().__init__(probability, seed)

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        boxes = annotated_boxes(results)
        turns = rng.uniform(_LEAST_TURN, 2 * np.pi - _LEAST_TURN, len(boxes))
        doubled = rng.random(len(boxes)) < self.probability
        boxes, turns = boxes[doubled], turns[doubled]
        points = results['points']
        point, box = points_in_annotated_boxes(points.tensor, boxes).nonzero()
        ghosts = points.tensor[point].clone()
        ghosts[:, :2] = _turned(ghosts[:, :2], torch.from_numpy(turns[box]).to(ghosts))
        results['points'] = points.new_point(torch.cat((points.tensor, ghosts)))
        places = boxes.copy()
        places[:, :2] = _turned(torch.from_numpy(boxes[:, :2]), torch.from_numpy(turns)).numpy()
        places[:, 6] += turns
        return SpoiledPart(regions=box_regions(places[np.unique(box)]))


def _turned(positions: Tensor, angles: Tensor) -> Tensor:
    """Positions (N, 2), each turned counter-clockwise by its angle (N,)."""
    cos, sin = angles.cos(), angles.sin()
    x, y = positions.unbind(-1)
    return torch.stack((cos * x - sin * y, sin * x + cos * y), dim=-1)


@TRANSFORMS.register_module()
class LiDARFrozen(LiDARFailure):
    """A LiDAR that repeats the keyframe of some time ago as if it were taken now.

    Unlike that of :class:`LiDARTimeOffset` the cloud is a real one, without sweeps, and needs no
    annotations. At the beginning of a recording it is as much later.

    Args:
        seconds: Age of the cloud, positive.
    """

    def __init__(self, seconds: float = 1.0, seed: int = 0) -> None:
        super().__init__(seed)
        self.seconds = seconds
        self.check('seconds', seconds > 0, 'be positive')

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        path = file_at(results['lidar_points']['lidar_path'], self.seconds)
        if path is None:
            return
        cloud = np.fromfile(path, dtype=np.float32).reshape(-1, POINT_VALUES)
        cloud[:, -1] = 0  # seconds by which a point is older than the keyframe
        points = results['points']
        check_columns(points.tensor)
        results['points'] = points.new_point(torch.from_numpy(cloud[:, : points.shape[1]].copy()))


@TRANSFORMS.register_module()
class LiDARTimeOffset(Degradation):
    """A LiDAR whose clock is behind: the cloud of a moment ago, images and boxes of now.

    MultiCorrupt's "temporal misalignment", made of what nuScenes' info files give: how the LiDAR
    moved since the sweep whose age is nearest to the level's. The points of the annotated objects
    go back along the objects' velocity, and then all points into the LiDAR frame of that sweep,
    but are taken for current ones. So the cloud keeps its density and its sweeps; what it lacks is
    the turning of objects and what has come into view since.

    The offset is the age of that sweep; a sample without one of half the level's age at least (the
    first of a scene) stays as it is. Where sweeps are far apart the offset is longer than the
    level, and two levels may be the same: the synthetic data have a sweep every 0.25 s, so that
    severities 1 and 2 are both 0.25 s, and 3 is 0.5 s.
    """

    spoiled = ('points',)
    levels = (0.1, 0.2, 0.4)
    """Seconds."""

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        sweeps = results.get('lidar_sweeps') or []
        sweep = min(sweeps, key=lambda s: abs(sweep_lag(results, s) - self.level), default=None)
        if sweep is None or sweep_lag(results, sweep) < _CLOSE_ENOUGH * self.level:
            return
        points = results['points']
        cloud: Tensor = points.tensor.clone()
        boxes = annotated_boxes(results)
        inside = points_in_annotated_boxes(cloud, boxes)
        moving = inside.any(axis=1)
        if moving.any():
            velocity = boxes[inside[moving].argmax(axis=1), 7:9]
            cloud[moving, :2] -= cloud.new_tensor(velocity * sweep_lag(results, sweep))
        cloud[:, :3] = into_sweep_frame(cloud[:, :3], sweep)
        results['points'] = points.new_point(cloud)


def annotated_boxes(results: Mapping) -> np.ndarray:
    """The boxes of a sample's objects: those loaded and pasted, or in a test its annotations.

    Returns:
        (M, 9) float64: x, y, z of the bottom's centre, sizes along x, y, z, yaw, velocity along
        x and y (0 where unknown), in metres, radians and m/s, LiDAR frame.

    Raises:
        KeyError: If the dataset gives no annotations.
    """
    for annotations in (results, results.get('eval_ann_info'), results.get('ann_info')):
        if annotations is not None and 'gt_bboxes_3d' in annotations:
            given = annotations['gt_bboxes_3d'].tensor.double().numpy()[:, :9]
            return np.nan_to_num(np.pad(given, ((0, 0), (0, 9 - given.shape[1]))))
    raise KeyError(
        "a sensor failure needs the annotated boxes, but the sample has no 'gt_bboxes_3d', "
        "'eval_ann_info' or 'ann_info'; in a training put it behind LoadAnnotations3D, for a test "
        'set test_mode=True and leave load_eval_anns=True in the dataset'
    )


def points_in_annotated_boxes(points: Tensor, boxes: np.ndarray) -> np.ndarray:
    """Which points (N, D) of a keyframe and sweeps lie in which box (M, 9): bool (N, M).

    Boxes are grown by 5 cm on each side, and moved back along their velocity for older points.
    """
    positions, lags = points[:, :3].double().numpy(), time_lags(points).double().numpy()
    grown = boxes + (0, 0, -_MARGIN, 2 * _MARGIN, 2 * _MARGIN, 2 * _MARGIN, 0, 0, 0)
    inside = np.zeros((len(positions), len(boxes)), dtype=bool)
    for lag in np.unique(lags):
        moved = grown.copy()
        moved[:, :2] -= boxes[:, 7:9] * lag
        then = lags == lag
        inside[then] = points_in_boxes(positions[then], moved)
    return inside
