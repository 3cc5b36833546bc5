"""A LiDAR that sees nothing, too little, too much, or the past.

A nuScenes file has x, y, z in metres, intensity 0-255 and the ring index 0-31 of the HDL-32E.
``LoadAlignedSweeps`` overwrites the ring index by the time in seconds for which a point is older
than the keyframe. Both are told apart by their values: the lags of a cloud are below one second,
and ring indices are whole numbers up to 31. Of four columns the last may be intensity or time
(``use_dim=[0, 1, 2, 4]`` is the default of the loaders of sweeps), which nothing tells apart: such
points are refused with a ValueError.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from mmdet3d.registry import TRANSFORMS
from torch import Tensor

from ..datasets.box_overlap import points_in_boxes
from ..datasets.data_files import POINT_VALUES
from ..datasets.modal_mask import zeroed
from ..spoiled_parts import SpoiledPart, box_regions, sector_regions
from .recorded_files import file_at
from .sensor_failure import Degradation, SensorFailure, setting

LOWEST_ELEVATION = -30.67
ELEVATION_STEP = 4.0 / 3.0
"""Beams of the Velodyne HDL-32E (its data sheet), degrees: -30.67 to +10.67."""

_NUM_RINGS = 32
_FIFTH = 4
_SAME_TIME = 1e-3
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
@dataclass(eq=False)
class LiDARBeamReduction(LiDARFailure):
    """Keep the points of a few rings, uniformly spaced over the 32 of the HDL-32E.

    "4 beams" of MoME (Park et al., CVPR 2025). The kept rings lie in the middle of equal parts:
    4, 12, 20 and 28 for four beams. The ring of a point is its ring index where the cloud still
    has one, else that of its elevation, seen from where the LiDAR was when it took the point:
    right for 89 % of the points of a keyframe of nuScenes and the next one for the others, as its
    clouds are corrected for the motion of the vehicle.
    """

    num_beams: int = setting(4, 'be 1 to 31', lambda number: 1 <= number < _NUM_RINGS)

    @property
    def kept_rings(self) -> Tensor:
        """Indices of the rings that are left, 0 the lowest."""
        return ((torch.arange(self.num_beams) + 0.5) * _NUM_RINGS / self.num_beams).long()

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        points = results['points']
        rings = rings_of(points.tensor, results)
        results['points'] = points[torch.isin(rings, self.kept_rings)]


@TRANSFORMS.register_module()
@dataclass(eq=False)
class LiDARFieldOfView(LiDARFailure):
    """Keep the points of a sector around the vehicle's forward axis, seen from the LiDAR.

    "Limited field of view" of nuScenes-R (Yu et al., arXiv 2205.14951) and MoME, +-60 degrees.
    Forward is what the mounting in the info file (``lidar2ego``) says, or y without one. A
    ``half_angle`` of 60 degrees keeps [-60, 60].
    """

    half_angle: float = setting(60.0, 'be within (0, 180)', lambda angle: 0 < angle < 180)

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
@dataclass(eq=False)
class LiDARObjectFailure(LiDARFailure):
    """Drop all points in the boxes of objects, each drawn with a ``probability``.

    "Object failure" of nuScenes-R (Yu et al., arXiv 2205.14951) and MoME, probability 0.5: black
    or wet objects do not echo. The annotations decide which points go; nothing else of them
    reaches the detector.
    """

    probability: float = setting(0.5, 'lie within (0, 1]', lambda chance: 0 < chance <= 1)

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        boxes = annotated_boxes(results)
        unseen = boxes[rng.random(len(boxes)) < self.probability]
        points = results['points']
        lost = points_in_annotated_boxes(points.tensor, unseen).any(axis=1)
        results['points'] = points[torch.from_numpy(~lost)]
        return SpoiledPart(regions=box_regions(unseen))


@TRANSFORMS.register_module()
@dataclass(eq=False)
class LiDARGhosts(LiDARFailure):
    """Ghost returns: the echoes of an object once more, in another direction.

    Wet roads, shop windows and other vehicles mirror, and interference does the same. A ghost has
    the points of a real object, turned about the sensor by 30 degrees or more, so that its
    distance and density are right and only the cameras tell it from an object. What stands where
    it appears is not removed. Each object has one with a ``probability``.
    """

    probability: float = setting(1.0, 'lie within (0, 1]', lambda chance: 0 < chance <= 1)

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
@dataclass(eq=False)
class LiDARFrozen(LiDARFailure):
    """A LiDAR that repeats the keyframe of some ``seconds`` ago as if it were taken now.

    Unlike that of :class:`LiDARTimeOffset` the cloud is a real one, without sweeps, and needs no
    annotations. At the beginning of a recording it is as much later.
    """

    seconds: float = setting(1.0, 'be positive', lambda seconds: seconds > 0)

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

    (M, 9) float64: x, y, z of the bottom's centre, sizes along x, y, z, yaw, velocity along x and
    y (0 where unknown), in metres, radians and m/s, LiDAR frame. A KeyError is raised if there are
    no annotations.
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


def check_columns(points: Tensor) -> None:
    """Raise a ValueError for points (N, 4), as nobody knows what their last column is."""
    if points.shape[1] == _FIFTH:
        raise ValueError(
            'a sensor failure cannot tell whether the fourth column of the points is intensity or '
            'time; set use_dim=[0, 1, 2, 3, 4] in the transforms that load points and sweeps'
        )


def _ring_column(points: Tensor) -> Tensor | None:
    """Ring indices (N,), int64, of points (N, D); None if the points carry none."""
    check_columns(points)
    if points.shape[1] <= _FIFTH or len(points) == 0:
        return None
    column = points[:, _FIFTH]
    in_range = column.min() >= 0 and 1 <= column.max() < _NUM_RINGS
    return column.long() if in_range and (column == column.round()).all() else None


def time_lags(points: Tensor) -> Tensor:
    """Seconds (N,) by which points (N, D) are older than the keyframe; 0 if they do not tell."""
    if _ring_column(points) is not None or points.shape[1] <= _FIFTH:
        return points.new_zeros(len(points))
    return points[:, _FIFTH]


def rings_of(points: Tensor, results: Mapping) -> Tensor:
    """Ring (N,), int64, 0 the lowest, of each point (N, D) of a keyframe and sweeps.

    It is the points' own ring index, or the one nearest to their elevation in the LiDAR frame of
    when they were taken, which ``timestamp`` and ``lidar_sweeps`` of the sample tell.
    """
    rings = _ring_column(points)
    if rings is not None:
        return rings
    lags, positions = time_lags(points), points[:, :3].clone()
    for sweep in results.get('lidar_sweeps') or []:
        taken_then = (lags - sweep_lag(results, sweep)).abs() < _SAME_TIME
        positions[taken_then] = into_sweep_frame(positions[taken_then], sweep)
    x, y, z = positions.double().unbind(-1)
    elevation = torch.rad2deg(torch.atan2(z, torch.hypot(x, y)))
    rings = torch.round((elevation - LOWEST_ELEVATION) / ELEVATION_STEP)
    return rings.clamp(0, _NUM_RINGS - 1).long()


def sweep_lag(results: Mapping, sweep: Mapping) -> float:
    """Seconds by which an entry of ``lidar_sweeps`` is older than the keyframe."""
    return float(results['timestamp'] - sweep['timestamp'])


def into_sweep_frame(positions: Tensor, sweep: Mapping) -> Tensor:
    """Undo what ``LoadAlignedSweeps`` did: positions (N, 3) in the frame of a sweep, metres."""
    matrix = torch.from_numpy(np.asarray(sweep['lidar_points']['lidar2sensor'], dtype=np.float64))
    moved = positions.double() @ matrix[:3, :3].T + matrix[:3, 3]
    return moved.to(positions.dtype)
