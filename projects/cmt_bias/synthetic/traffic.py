"""Where the annotated objects of a scene stand and how they move."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .boxes import SolidBoxes, footprints_overlap
from .object_catalog import OBJECT_KINDS, ObjectKind
from .object_shapes import object_solid
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

# Free space kept around every object, metres on each side.
_CLEARANCE = 0.12
_EGO_CLEARANCE = 0.8
_COLLISION_STEP = 0.1
_MAX_TRIES = 200
_WORK_ZONE_LENGTH = 24.0
_HITCH_GAP = 0.7
_CHILD_SCALE = 0.72
_RIDER_EXTRA_HEIGHT = 0.4
# Large vehicles right beside the ego vehicle would hide a whole side of the scene.
_LARGE_VEHICLES = ('bus', 'trailer', 'truck', 'construction_vehicle')
_LARGE_VEHICLE_DISTANCE = 11.0
# Objects are placed within these distances along the road of the ego vehicle's place in the
# middle of the scene: near enough for a few LiDAR points each.
_VEHICLE_REACH = 33.0
_SMALL_OBJECT_REACH = 20.0
_ROADWORK_REACH = 17.0


@dataclass(frozen=True)
class Track:
    """Motion at constant speed in road coordinates.

    Attributes:
        s: Position along the road at time 0, metres.
        d: Offset to the left of the centre line at time 0, metres.
        speed_s: Speed along the road, m/s.
        speed_d: Speed across the road, m/s.
        yaw_offset: Heading relative to the road, radians.
    """

    s: float
    d: float
    speed_s: float
    speed_d: float
    yaw_offset: float

    def poses(self, road: Road, times: np.ndarray) -> np.ndarray:
        """Return (T, 3) world x, y, yaw at ``times`` in seconds."""
        x, y, heading = road.to_world(self.s + self.speed_s * times, self.d + self.speed_d * times)
        return np.stack([x, y, heading + self.yaw_offset], axis=-1)


@dataclass(frozen=True)
class Body:
    """One annotated object without its looks.

    Attributes:
        kind: Key of :data:`cmt_bias.synthetic.object_catalog.OBJECT_KINDS`.
        category: nuScenes category name.
        attribute: nuScenes attribute name, or an empty string for objects without.
        size: Annotated (length, width, height) in metres.
        track: Motion.
    """

    kind: str
    category: str
    attribute: str
    size: tuple[float, float, float]
    track: Track


@dataclass(frozen=True)
class Actor(Body):
    """One annotated object.

    Attributes:
        solid: The object's boxes in its own frame.
    """

    solid: SolidBoxes


@dataclass(frozen=True)
class Proposal:
    """A place and motion tried for an object; positions hold in the middle of the scene."""

    s: float
    d: float
    yaw_offset: float
    attribute: str
    speed_s: float = 0.0
    speed_d: float = 0.0


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
        ego: Track,
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
        self._ego_s = ego.s + ego.speed_s * self._middle
        self._work_side = -1 if ego.d > -LANE_WIDTH or rng.random() < 0.4 else 1
        if ego.d < -LANE_WIDTH:
            self._work_side = 1
        self._work_s = self._ego_s + rng.uniform(-16.0, 6.0)
        self._poses: list[np.ndarray] = []
        self._half_sizes: list[np.ndarray] = []
        self._block_ego(ego)
        self._block_scenery(obstacles)

    def populate(self) -> list[Actor]:
        """Place all objects of the catalogue, large ones first."""
        actors: list[Actor] = []
        for kind in OBJECT_KINDS.values():
            # Some trucks are there already, in front of trailers.
            missing = kind.count - sum(actor.kind == kind.name for actor in actors)
            for _ in range(missing):
                actors.extend(self._place(kind))
        return actors

    def _block_ego(self, ego: Track) -> None:
        poses = ego.poses(self._road, self._times)
        ahead = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=-1)
        poses[:, :2] += EGO_CENTER_AHEAD_OF_ORIGIN * ahead
        self._poses.append(poses)
        self._half_sizes.append(np.array([EGO_LENGTH, EGO_WIDTH]) / 2 + _EGO_CLEARANCE)

    def _block_scenery(self, scenery: SolidBoxes) -> None:
        near_ground = scenery.centers[:, 2] - scenery.half_sizes[:, 2] < 2.0
        for center, half_size, yaw in zip(
            scenery.centers[near_ground],
            scenery.half_sizes[near_ground],
            scenery.yaws[near_ground],
            strict=True,
        ):
            pose = np.array([center[0], center[1], yaw])
            self._poses.append(np.tile(pose, (len(self._times), 1)))
            self._half_sizes.append(half_size[:2])

    def _place(self, kind: ObjectKind) -> list[Actor]:
        """Try places until one is free; a trailer in a lane brings the truck that pulls it."""
        size = kind.draw_size(self._rng)
        category = kind.categories[self._rng.integers(len(kind.categories))]
        if category.endswith('child'):
            size = scaled_size(size, _CHILD_SCALE)
        for _ in range(_MAX_TRIES):
            body = self._propose_body(kind, category, size)
            bodies = [body]
            if kind.name == 'trailer' and body.attribute != 'vehicle.parked':
                bodies.append(self._tractor(body))
            if all(self._is_free(body) for body in bodies):
                for body in bodies:
                    self._poses.append(body.track.poses(self._road, self._times))
                    self._half_sizes.append(np.array(body.size[:2]) / 2 + _CLEARANCE)
                return [self._build(body) for body in bodies]
        return []

    def _propose_body(
        self, kind: ObjectKind, category: str, size: tuple[float, float, float]
    ) -> Body:
        proposal = _PROPOSALS[kind.name](self)
        track = Track(
            s=proposal.s - proposal.speed_s * self._middle,
            d=proposal.d - proposal.speed_d * self._middle,
            speed_s=proposal.speed_s,
            speed_d=proposal.speed_d,
            yaw_offset=proposal.yaw_offset,
        )
        if proposal.attribute == 'cycle.with_rider':
            # A rider is part of the annotated box and makes it taller.
            size = (size[0], size[1], round(size[2] + _RIDER_EXTRA_HEIGHT, 3))
        return Body(kind.name, category, proposal.attribute, size, track)

    def _tractor(self, trailer: Body) -> Body:
        """The truck in front of a trailer."""
        kind = OBJECT_KINDS['truck']
        size = kind.draw_size(self._rng)
        ahead = (trailer.size[0] + size[0]) / 2 + _HITCH_GAP
        heading = trailer.track.yaw_offset
        # On the inner side of a bend, a metre of road takes more than a metre of s.
        stretch = 1.0 - self._road.curvature * trailer.track.d
        track = dataclasses.replace(
            trailer.track,
            s=trailer.track.s + ahead * np.cos(heading) / stretch,
            d=trailer.track.d + ahead * np.sin(heading),
        )
        return Body(kind.name, kind.categories[0], trailer.attribute, size, track)

    def _build(self, body: Body) -> Actor:
        variant = f'{body.category} {body.attribute}'
        solid = object_solid(body.kind, body.size, variant, self._rng)
        return Actor(**vars(body), solid=solid)

    def _is_free(self, body: Body) -> bool:
        """Whether nothing else is on a body's way at any time."""
        poses = body.track.poses(self._road, self._times)  # (T, 3)
        half_size = np.array(body.size[:2]) / 2 + _CLEARANCE
        others = np.stack(self._poses)  # (N, T, 3), the ego vehicle first
        other_half_sizes = np.stack(self._half_sizes)  # (N, 2)
        distance = np.hypot(others[..., 0] - poses[:, 0], others[..., 1] - poses[:, 1])
        ego_distance = distance[0, len(self._times) // 2]
        if body.kind in _LARGE_VEHICLES and ego_distance < _LARGE_VEHICLE_DISTANCE:
            return False
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

    def _flip(self) -> float:
        return float(self._rng.choice((0.0, np.pi)))

    def _lane_vehicle(self) -> Proposal:
        """A vehicle in a lane, driving or waiting; now and then on the crossing road."""
        if self._road.crossing_s is not None and self._rng.random() < 0.35:
            return self._crossing_vehicle()
        forward = self._rng.random() < 0.5
        lane = self._rng.choice(FORWARD_LANES if forward else BACKWARD_LANES)
        speed = float(self._rng.uniform(2.0, 9.0)) if self._rng.random() < 0.6 else 0.0
        return Proposal(
            s=self._near_ego(_VEHICLE_REACH),
            d=float(lane + self._rng.uniform(-0.15, 0.15)),
            yaw_offset=float((0.0 if forward else np.pi) + self._rng.normal(0.0, 0.02)),
            attribute='vehicle.moving' if speed else 'vehicle.stopped',
            speed_s=speed if forward else -speed,
        )

    def _crossing_vehicle(self) -> Proposal:
        """A vehicle on the crossing road, keeping right."""
        assert self._road.crossing_s is not None
        to_left = self._rng.random() < 0.5
        direction = 1.0 if to_left else -1.0
        moving = self._rng.random() < 0.5
        offset = self._rng.uniform(-22.0, 22.0) if moving else -direction * 15.0
        speed = float(self._rng.uniform(2.0, 6.0)) if moving else 0.0
        return Proposal(
            s=self._road.crossing_s + direction * CROSSING_HALF_WIDTH / 2,
            d=float(offset),
            yaw_offset=direction * np.pi / 2,
            attribute='vehicle.moving' if moving else 'vehicle.stopped',
            speed_d=direction * speed,
        )

    def _parked_vehicle(self) -> Proposal:
        """A vehicle in a parking strip, in the strip's own direction."""
        side = self._side()
        depth = self._road.side_parking_depth(side)
        if depth > 4.0:
            yaw = side * np.pi / 2 + self._flip()
        else:
            yaw = (0.0 if side < 0 else np.pi) + (self._flip() if self._rng.random() < 0.2 else 0)
        return Proposal(
            s=self._parking_s(_VEHICLE_REACH),
            d=side * (ROAD_HALF_WIDTH + depth / 2),
            yaw_offset=float(yaw + self._rng.normal(0.0, 0.03)),
            attribute='vehicle.parked',
        )

    def _parking_s(self, reach: float) -> float:
        """A position within ``reach`` metres of the ego vehicle, off the crossing road."""
        while True:
            s = self._near_ego(reach)
            crossing = self._road.crossing_s
            if crossing is None or abs(s - crossing) > CROSSING_HALF_WIDTH + 7.0:
                return s

    def _car(self) -> Proposal:
        return self._parked_vehicle() if self._rng.random() < 0.5 else self._lane_vehicle()

    def _large_vehicle(self) -> Proposal:
        """Bus, truck or trailer: in a lane, or standing along the kerb where that is wide."""
        if self._rng.random() < 0.3:
            side = self._side()
            if self._road.side_parking_depth(side) > 4.0:
                return Proposal(
                    s=self._parking_s(_VEHICLE_REACH),
                    d=side * (ROAD_HALF_WIDTH + 1.8),
                    yaw_offset=float((side > 0) * np.pi + self._rng.normal(0.0, 0.02)),
                    attribute='vehicle.parked',
                )
        return self._lane_vehicle()

    def _construction_vehicle(self) -> Proposal:
        if self._rng.random() < 0.25:
            return self._lane_vehicle()
        side = self._work_side if self._rng.random() < 0.7 else self._side()
        return Proposal(
            s=self._parking_s(_VEHICLE_REACH),
            d=float(side * self._rng.uniform(ROAD_HALF_WIDTH - 1.8, ROAD_HALF_WIDTH + 4.0)),
            yaw_offset=float(self._rng.uniform(-np.pi, np.pi)),
            attribute='vehicle.parked',
        )

    def _cycle(self, top_speed: float) -> Proposal:
        if self._rng.random() < 0.55:
            forward = self._rng.random() < 0.5
            side = -1 if forward else 1
            speed = float(self._rng.uniform(2.0, top_speed))
            offset = self._rng.choice((1.0, 5.8, 6.3, 6.6)) + self._rng.uniform(-0.1, 0.1)
            return Proposal(
                s=self._near_ego(_SMALL_OBJECT_REACH),
                d=float(side * offset),
                yaw_offset=float((0.0 if forward else np.pi) + self._rng.normal(0.0, 0.03)),
                attribute='cycle.with_rider',
                speed_s=-side * speed,
            )
        side = self._side()
        kerb = road_kerb(self._road, side)
        return Proposal(
            s=self._parking_s(_SMALL_OBJECT_REACH),
            d=float(side * self._rng.uniform(ROAD_HALF_WIDTH + 0.6, kerb + 1.0)),
            yaw_offset=float(self._rng.uniform(-np.pi, np.pi)),
            attribute='cycle.without_rider',
        )

    def _bicycle(self) -> Proposal:
        return self._cycle(top_speed=6.0)

    def _motorcycle(self) -> Proposal:
        return self._cycle(top_speed=9.0)

    def _pedestrian(self) -> Proposal:
        """Someone on a sidewalk, walking or standing, or crossing the road."""
        if self._rng.random() < 0.25:
            direction = self._side()
            s = self._near_ego(_SMALL_OBJECT_REACH)
            if self._road.crossing_s is not None:
                s = self._road.crossing_s + self._side() * (CROSSING_HALF_WIDTH + 2.3)
            return Proposal(
                s=float(s),
                d=float(self._rng.uniform(-ROAD_HALF_WIDTH, ROAD_HALF_WIDTH)),
                yaw_offset=direction * np.pi / 2,
                attribute='pedestrian.moving',
                speed_d=float(direction * self._rng.uniform(0.8, 1.6)),
            )
        side = self._side()
        kerb = road_kerb(self._road, side)
        offset = side * (kerb + self._rng.uniform(0.4, SIDEWALK_WIDTH))
        if self._rng.random() < 0.6:
            direction = self._side()
            return Proposal(
                s=self._near_ego(_SMALL_OBJECT_REACH),
                d=float(offset),
                yaw_offset=0.0 if direction > 0 else np.pi,
                attribute='pedestrian.moving',
                speed_s=float(direction * self._rng.uniform(0.7, 1.7)),
            )
        return Proposal(
            s=self._near_ego(_SMALL_OBJECT_REACH),
            d=float(offset),
            yaw_offset=float(self._rng.uniform(-np.pi, np.pi)),
            attribute='pedestrian.standing',
        )

    def _barrier(self) -> Proposal:
        """Barriers close off the work zone; a few stand along the kerb."""
        if self._rng.random() < 0.7:
            slot = int(self._rng.integers(int(_WORK_ZONE_LENGTH / 2.9)))
            return Proposal(
                s=float(self._work_s + 2.9 * slot),
                d=float(self._work_side * (LANE_WIDTH + 0.45)),
                yaw_offset=float(np.pi / 2 + self._rng.normal(0.0, 0.04)),
                attribute='',
            )
        side = self._side()
        kerb = road_kerb(self._road, side)
        return Proposal(
            s=self._near_ego(_ROADWORK_REACH),
            d=float(side * (kerb + self._rng.uniform(0.1, 0.8))),
            yaw_offset=float(np.pi / 2 + self._rng.normal(0.0, 0.3)),
            attribute='',
        )

    def _traffic_cone(self) -> Proposal:
        """Cones mark the work zone's edge and stand about on both sides of the road."""
        if self._rng.random() < 0.5:
            return Proposal(
                s=float(self._work_s + self._rng.uniform(-4.0, _WORK_ZONE_LENGTH)),
                d=float(self._work_side * (LANE_WIDTH + self._rng.uniform(0.2, 1.0))),
                yaw_offset=float(self._rng.uniform(-np.pi, np.pi)),
                attribute='',
            )
        return Proposal(
            s=self._near_ego(_ROADWORK_REACH),
            d=float(self._side() * self._rng.uniform(ROAD_HALF_WIDTH - 0.7, ROAD_HALF_WIDTH + 2)),
            yaw_offset=float(self._rng.uniform(-np.pi, np.pi)),
            attribute='',
        )

    def _trash_bin(self) -> Proposal:
        side = self._side()
        return Proposal(
            s=self._near_ego(_SMALL_OBJECT_REACH),
            d=float(side * (road_kerb(self._road, side) + 0.6)),
            yaw_offset=float(self._rng.normal(0.0, 0.2)),
            attribute='',
        )


def scaled_size(size: tuple[float, float, float], scale: float) -> tuple[float, float, float]:
    """Scale a (length, width, height), rounded to millimetres."""
    length, width, height = (round(scale * value, 3) for value in size)
    return length, width, height


def road_kerb(road: Road, side: int) -> float:
    """Distance from the centre line to the edge of the sidewalk; ``side`` is -1 or 1."""
    return ROAD_HALF_WIDTH + road.side_parking_depth(side)


_PROPOSALS: dict[str, Callable[[TrafficPlanner], Proposal]] = {
    'car': TrafficPlanner._car,
    'truck': TrafficPlanner._large_vehicle,
    'trailer': TrafficPlanner._large_vehicle,
    'bus': TrafficPlanner._large_vehicle,
    'construction_vehicle': TrafficPlanner._construction_vehicle,
    'motorcycle': TrafficPlanner._motorcycle,
    'bicycle': TrafficPlanner._bicycle,
    'barrier': TrafficPlanner._barrier,
    'traffic_cone': TrafficPlanner._traffic_cone,
    'pedestrian': TrafficPlanner._pedestrian,
    'pushable_pullable': TrafficPlanner._trash_bin,
}
