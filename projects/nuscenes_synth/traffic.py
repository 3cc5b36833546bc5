"""Where the objects of a scene stand and how they move."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .boxes import SolidBoxes, footprints_overlap
from .catalog import OBJECT_KINDS, ObjectKind, Size
from .rig import EGO_CENTER_AHEAD_OF_ORIGIN, EGO_LENGTH, EGO_WIDTH
from .road import (
    BACKWARD_LANES,
    CROSSING_HALF_WIDTH,
    FORWARD_LANES,
    LANE_WIDTH,
    ROAD_HALF_WIDTH,
    SIDEWALK_WIDTH,
    Road,
)
from .shapes import object_solid
from .tracks import Motion, Track

# Free space kept around every object, metres on each side.
_CLEARANCE = 0.12
_EGO_CLEARANCE = 0.8
_COLLISION_STEP = 0.1
_MAX_TRIES = 200
_WORK_ZONE_LENGTH = 24.0
_CHILD_SCALE = 0.72
_RIDER_EXTRA_HEIGHT = 0.4
# A large vehicle right beside the ego vehicle would hide a whole side of the scene.
_LARGE_VEHICLE_DISTANCE = 11.0
# Objects are placed within these distances along the road of the ego vehicle's place in the
# middle of the scene.
_VEHICLE_REACH = 36.0
_SMALL_OBJECT_REACH = 24.0
_ROADWORK_REACH = 21.0


@dataclass(frozen=True)
class Actor:
    """One object.

    Attributes:
        kind: Key of :data:`nuscenes_synth.catalog.OBJECT_KINDS`.
        category: nuScenes category name; an empty string for what is not annotated.
        attribute: nuScenes attribute name, or an empty string for objects without.
        size: Annotated (length, width, height) in metres.
        track: Motion.
        solid: The object's boxes in its own frame.
    """

    kind: str
    category: str
    attribute: str
    size: Size
    track: Track
    solid: SolidBoxes


# Where an object is in the middle of the scene and how it moves, with its nuScenes attribute.
Proposal = tuple[Track, str]


class TrafficPlanner:
    """Draws objects and accepts those that never touch what is there already.

    Args:
        road: The street.
        ego: Motion of the recording vehicle's origin.
        duration: Length of the scene in seconds.
        obstacles: Scenery that objects keep clear of.
        rng: Source of all draws.
    """

    def __init__(
        self,
        road: Road,
        ego: Motion,
        duration: float,
        obstacles: SolidBoxes,
        rng: np.random.Generator,
    ) -> None:
        self._road = road
        self._rng = rng
        self._middle = duration / 2
        self._times = np.arange(
            -_COLLISION_STEP, duration + 1.5 * _COLLISION_STEP, _COLLISION_STEP
        )
        middle = ego.poses(road, np.array([self._middle]))[0]
        ego_s, ego_d = road.from_world(middle[:1], middle[1:2])
        self._ego_s = float(ego_s[0])
        # Roadworks on the side that the ego vehicle does not drive on.
        self._work_side = 1 if ego_d[0] < -LANE_WIDTH else -1
        self._work_s = self._ego_s + rng.uniform(-16.0, 6.0)
        self._ego_position = middle[:2]
        self._poses = np.empty((0, len(self._times), 3))  # of what is there, ego vehicle first
        self._half_sizes = np.empty((0, 2))
        self._circles = np.empty((0, 3))  # x, y, radius around the whole way
        self._block_ego(ego)
        self._block_scenery(obstacles)

    def populate(self) -> list[Actor]:
        """Place all objects of the catalogue, large ones first."""
        placed = [self._place(kind) for kind in OBJECT_KINDS.values() for _ in range(kind.count)]
        return [actor for actor in placed if actor is not None]

    def _block_ego(self, ego: Motion) -> None:
        poses = ego.poses(self._road, self._times)
        ahead = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=-1)
        poses[:, :2] += EGO_CENTER_AHEAD_OF_ORIGIN * ahead
        self._block(poses, np.array([EGO_LENGTH, EGO_WIDTH]) / 2 + _EGO_CLEARANCE)

    def _block_scenery(self, scenery: SolidBoxes) -> None:
        for index in np.flatnonzero(scenery.centers[:, 2] - scenery.half_sizes[:, 2] < 2.0):
            pose = np.array([*scenery.centers[index, :2], scenery.yaws[index]])
            self._block(np.tile(pose, (len(self._times), 1)), scenery.half_sizes[index, :2])

    def _block(self, poses: np.ndarray, half_size: np.ndarray) -> None:
        self._poses = np.concatenate([self._poses, poses[None]])
        self._half_sizes = np.concatenate([self._half_sizes, half_size[None]])
        self._circles = np.concatenate([self._circles, _circle(poses, half_size)[None]])

    def _place(self, kind: ObjectKind) -> Actor | None:
        """Try places until one is free."""
        length, width, height = kind.draw_size(self._rng)
        category = str(self._rng.choice(kind.categories)) if kind.categories else ''
        if category.endswith('child'):
            length, width, height = (_CHILD_SCALE * side for side in (length, width, height))
        for _ in range(_MAX_TRIES):
            track, attribute = _PROPOSALS[kind.family](self, kind)
            track = track.delayed(self._middle)
            # A rider is part of the annotated box and makes it taller.
            rider = _RIDER_EXTRA_HEIGHT if attribute == 'cycle.with_rider' else 0.0
            size = (round(length, 3), round(width, 3), round(height + rider, 3))
            poses = track.poses(self._road, self._times)
            half_size = np.array(size[:2]) / 2 + _CLEARANCE
            if self._is_free(kind, poses, half_size):
                self._block(poses, half_size)
                solid = object_solid(kind.name, size, f'{category} {attribute}', self._rng)
                return Actor(kind.name, category, attribute, size, track, solid)
        return None

    def _is_free(self, kind: ObjectKind, poses: np.ndarray, half_size: np.ndarray) -> bool:
        """Whether nothing else is on the way of an object, (T, 3) poses, at any time."""
        middle = poses[len(poses) // 2, :2]
        from_ego = float(np.hypot(*(middle - self._ego_position)))
        if kind.family == 'large' and from_ego < _LARGE_VEHICLE_DISTANCE:
            return False
        x, y, radius = _circle(poses, half_size)
        apart = np.hypot(self._circles[:, 0] - x, self._circles[:, 1] - y)
        close = apart < self._circles[:, 2] + radius
        others, other_half_sizes = self._poses[close], self._half_sizes[close]
        distance = np.hypot(others[..., 0] - poses[:, 0], others[..., 1] - poses[:, 1])
        reach = np.hypot(*half_size) + np.hypot(other_half_sizes[:, 0], other_half_sizes[:, 1])
        index, time = np.nonzero(distance < reach[:, None])
        overlap = footprints_overlap(
            poses[time, :2],
            np.broadcast_to(half_size, (len(time), 2)),
            poses[time, 2],
            others[index, time, :2],
            other_half_sizes[index],
            others[index, time, 2],
        )
        return not overlap.any()

    def _near_ego(self, reach: float) -> float:
        return float(self._ego_s + self._rng.uniform(-reach, reach))

    def _side(self) -> int:
        return int(self._rng.choice((-1, 1)))

    def _any_yaw(self) -> float:
        return float(self._rng.uniform(-np.pi, np.pi))

    def _off_crossing(self, reach: float) -> float:
        """A position within ``reach`` metres of the ego vehicle, off the crossing road."""
        while True:
            s = self._near_ego(reach)
            crossing = self._road.crossing_s
            if crossing is None or abs(s - crossing) > CROSSING_HALF_WIDTH + 7.0:
                return s

    def _lane_vehicle(self, may_move: bool = True) -> Proposal:
        """A vehicle in a lane, driving or waiting; now and then on the crossing road."""
        if self._road.crossing_s is not None and self._rng.random() < 0.35:
            return self._crossing_vehicle(self._road.crossing_s, may_move)
        forward = self._rng.random() < 0.5
        lane = self._rng.choice(FORWARD_LANES if forward else BACKWARD_LANES)
        moving = self._rng.random() < 0.6 and may_move
        speed = self._rng.uniform(2.0, 9.0) if moving else 0.0
        s, d = self._near_ego(_VEHICLE_REACH), lane + self._rng.uniform(-0.15, 0.15)
        yaw = (0.0 if forward else np.pi) + self._rng.normal(0.0, 0.02)
        track = Track(s, d, yaw, speed_s=speed if forward else -speed)
        return track, 'vehicle.moving' if moving else 'vehicle.stopped'

    def _crossing_vehicle(self, crossing_s: float, may_move: bool) -> Proposal:
        """A vehicle on the crossing road, keeping right."""
        direction = self._side()
        moving = self._rng.random() < 0.5 and may_move
        speed = self._rng.uniform(2.0, 6.0) if moving else 0.0
        d = self._rng.uniform(-22.0, 22.0) if moving else -direction * 15.0
        s = crossing_s + direction * CROSSING_HALF_WIDTH / 2
        track = Track(s, d, direction * np.pi / 2, speed_d=direction * speed)
        return track, 'vehicle.moving' if moving else 'vehicle.stopped'

    def _car(self, kind: ObjectKind) -> Proposal:
        """In a lane, or in a parking strip, which decides on the direction."""
        if self._rng.random() < 0.5:
            return self._lane_vehicle()
        side = self._side()
        depth = self._road.side_parking_depth(side)
        flip = self._rng.choice((0.0, np.pi))
        if depth > 4.0:
            yaw = side * np.pi / 2 + flip
        else:
            yaw = (side > 0) * np.pi + (flip if self._rng.random() < 0.4 else 0.0)
        s, d = self._off_crossing(_VEHICLE_REACH), side * (ROAD_HALF_WIDTH + depth / 2)
        return Track(s, d, yaw + self._rng.normal(0.0, 0.03)), 'vehicle.parked'

    def _large_vehicle(self, kind: ObjectKind) -> Proposal:
        """In a lane, or standing along the kerb where that is wide; a trailer never moves."""
        side = self._side()
        if self._rng.random() < 0.4 and self._road.side_parking_depth(side) > 4.0:
            s, d = self._off_crossing(_VEHICLE_REACH), side * (ROAD_HALF_WIDTH + 1.8)
            yaw = (side > 0) * np.pi + self._rng.normal(0.0, 0.02)
            return Track(s, d, yaw), 'vehicle.parked'
        return self._lane_vehicle(may_move=kind.name not in ('trailer', 'container'))

    def _cycle(self, kind: ObjectKind) -> Proposal:
        """Ridden on the road, or left on a parking strip or sidewalk."""
        if self._rng.random() < 0.55:
            forward = self._rng.random() < 0.5
            side = -1 if forward else 1
            speed = self._rng.uniform(2.0, 7.0)
            offset = self._rng.choice((1.0, 5.8, 6.3, 6.6)) + self._rng.uniform(-0.1, 0.1)
            s = self._near_ego(_SMALL_OBJECT_REACH)
            yaw = (0.0 if forward else np.pi) + self._rng.normal(0.0, 0.03)
            return Track(s, side * offset, yaw, speed_s=-side * speed), 'cycle.with_rider'
        side = self._side()
        s = self._off_crossing(_SMALL_OBJECT_REACH)
        d = side * self._rng.uniform(ROAD_HALF_WIDTH + 0.6, self._kerb(side) + 1.0)
        return Track(s, d, self._any_yaw()), 'cycle.without_rider'

    def _figure(self, kind: ObjectKind) -> Proposal:
        """On a sidewalk; pedestrians also walk there or cross the road."""
        is_pedestrian = kind.name == 'pedestrian'
        if is_pedestrian and self._rng.random() < 0.2:
            direction = self._side()
            s = self._near_ego(_SMALL_OBJECT_REACH)
            if self._road.crossing_s is not None:
                s = self._road.crossing_s + self._side() * (CROSSING_HALF_WIDTH + 2.3)
            d = self._rng.uniform(-ROAD_HALF_WIDTH, ROAD_HALF_WIDTH)
            speed = direction * self._rng.uniform(0.8, 1.6)
            return Track(s, d, direction * np.pi / 2, speed_d=speed), 'pedestrian.moving'
        side = self._side()
        d = side * (self._kerb(side) + self._rng.uniform(0.4, SIDEWALK_WIDTH))
        s = self._off_crossing(_SMALL_OBJECT_REACH)
        if is_pedestrian and self._rng.random() < 0.4:
            direction = self._side()
            yaw = 0.0 if direction > 0 else np.pi
            speed = direction * self._rng.uniform(0.7, 1.7)
            return Track(s, d, yaw, speed_s=speed), 'pedestrian.moving'
        return Track(s, d, self._any_yaw()), 'pedestrian.standing' if is_pedestrian else ''

    def _barrier(self, kind: ObjectKind) -> Proposal:
        """In a row along the roadworks, or along the kerb."""
        if self._rng.random() < 0.6:
            s = self._work_s + 2.9 * self._rng.integers(int(_WORK_ZONE_LENGTH / 2.9))
            d = self._work_side * (LANE_WIDTH + 0.45)
            return Track(s, d, np.pi / 2 + self._rng.normal(0.0, 0.04)), ''
        side = self._side()
        s = self._near_ego(_ROADWORK_REACH)
        d = side * (self._kerb(side) + self._rng.uniform(0.1, 0.8))
        return Track(s, d, np.pi / 2 + self._rng.normal(0.0, 0.3)), ''

    def _cone(self, kind: ObjectKind) -> Proposal:
        """At the edge of the roadworks, or anywhere along both sides of the road."""
        s = self._near_ego(_ROADWORK_REACH)
        d = self._side() * self._rng.uniform(ROAD_HALF_WIDTH - 0.7, ROAD_HALF_WIDTH + 2)
        if self._rng.random() < 0.5:
            s = self._work_s + self._rng.uniform(-4.0, _WORK_ZONE_LENGTH)
            d = self._work_side * (LANE_WIDTH + self._rng.uniform(0.2, 1.0))
        return Track(s, d, self._any_yaw()), ''

    def _kerb(self, side: int) -> float:
        """Distance from the centre line to the edge of the sidewalk; ``side`` is -1 or 1."""
        return ROAD_HALF_WIDTH + self._road.side_parking_depth(side)


def _circle(poses: np.ndarray, half_size: np.ndarray) -> np.ndarray:
    """Circle (x, y, radius) around an object in all of its (T, 3) poses."""
    center = (poses[0, :2] + poses[-1, :2]) / 2
    way = np.hypot(poses[:, 0] - center[0], poses[:, 1] - center[1]).max()
    return np.array([*center, way + np.hypot(*half_size)])


_PROPOSALS: dict[str, Callable[[TrafficPlanner, ObjectKind], Proposal]] = {
    'car': TrafficPlanner._car,
    'large': TrafficPlanner._large_vehicle,
    'cycle': TrafficPlanner._cycle,
    'figure': TrafficPlanner._figure,
    'barrier': TrafficPlanner._barrier,
    'cone': TrafficPlanner._cone,
}
