"""One synthetic scene: a street, its weather, the objects on it and the ego vehicle's drive."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .boxes import SolidBoxes
from .rig import rigid_transform
from .road import FORWARD_LANES, Road
from .scenery import build_scenery
from .tracks import Motion, Track, Turn, poses_at
from .traffic import Actor, TrafficPlanner


@dataclass(frozen=True)
class SyntheticScene:
    """Everything the sensors can see, as functions of the time in seconds from scene start.

    Attributes:
        road: The street.
        ego: Motion of the ego frame's origin.
        actors: Objects, those that are not annotated included.
        scenery: Houses, trees, lamp posts.
    """

    road: Road
    ego: Motion
    actors: list[Actor]
    scenery: SolidBoxes

    @cached_property
    def _parts(self) -> SolidBoxes:
        """All boxes, those of actors in the actors' frames; owners index :attr:`actors`."""
        solids = [
            replace(actor.solid, owners=np.full(len(actor.solid), index))
            for index, actor in enumerate(self.actors)
        ]
        return SolidBoxes.concatenate([*solids, self.scenery])

    def actor_poses(self, time: float) -> np.ndarray:
        """Return the (N, 3) world x, y, yaw of the actors."""
        return poses_at(time, [actor.track for actor in self.actors], self.road)

    def ego_pose(self, time: float) -> np.ndarray:
        """Return the (3,) world x, y, yaw of the ego frame, which stands on the ground."""
        return self.ego.poses(self.road, np.array([time]))[0]

    def solids(self, time: float, frame: np.ndarray | None = None) -> SolidBoxes:
        """Return all boxes; ``owners`` index :attr:`actors`, -1 is scenery.

        Args:
            time: When.
            frame: (3,) world x, y, yaw of the frame to return them in; the world by default.
        """
        scenery = np.zeros((1, 3))  # is in the world's frame already; owner -1 is the last row
        poses = np.concatenate([self.actor_poses(time), scenery])
        if frame is not None:
            cos, sin = np.cos(frame[2]), np.sin(frame[2])
            x, y = poses[:, 0] - frame[0], poses[:, 1] - frame[1]
            poses = np.stack([cos * x + sin * y, cos * y - sin * x, poses[:, 2] - frame[2]], -1)
        return self._parts.moved(poses[self._parts.owners])

    def world_from_ego(self, time: float) -> np.ndarray:
        """Return the (4, 4) pose of the ego frame in the world."""
        x, y, yaw = self.ego_pose(time)
        rotation = (float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2)))
        return rigid_transform(rotation, (float(x), float(y), 0.0))


def build_scene(
    rng: np.random.Generator, origin: tuple[float, float], duration: float
) -> SyntheticScene:
    """Draw a scene.

    Args:
        rng: Source of all draws.
        origin: World (x, y) of the middle of the street, metres.
        duration: Time from the first to the last keyframe, seconds.
    """
    road, ego = draw_drive(rng, origin, duration)
    scenery = build_scenery(road, rng)
    actors = TrafficPlanner(road, ego, duration, scenery, rng).populate()
    return SyntheticScene(road, ego, actors, scenery)


def draw_drive(
    rng: np.random.Generator, origin: tuple[float, float], duration: float
) -> tuple[Road, Motion]:
    """Draw what a scene begins with, its road and the ego vehicle's drive, as ``build_scene``."""
    shape = str(rng.choice(('straight', 'crossing', 'bend', 'turn')))
    curvature, crossing_s = 0.0, None
    if shape == 'bend':
        curvature = float(rng.choice((-1.0, 1.0)) / rng.uniform(60.0, 150.0))
    elif shape == 'crossing':
        crossing_s = float(rng.uniform(-5.0, 30.0))
    elif shape == 'turn':
        crossing_s = 0.0
    right, left = (float(depth) for depth in rng.choice((2.4, 5.4), size=2))
    heading = float(rng.uniform(-np.pi, np.pi))
    road = Road(origin, heading, curvature, (right, left), crossing_s)
    if shape == 'turn':
        side = int(rng.choice((-1, 1)))
        radius = float(rng.uniform(9.0, 12.0) if side > 0 else rng.uniform(7.5, 9.0))
        speed = float(rng.uniform(4.0, 6.0))
        # Somewhere on the arc in the middle of the scene.
        start = speed * duration / 2 - rng.uniform(0.2, 0.7) * radius * np.pi / 2
        return road, Turn(side, radius, speed, float(start))
    speed = 0.0 if rng.random() < 0.1 else float(rng.uniform(2.0, 8.0))
    lane = float(rng.choice(FORWARD_LANES))
    return road, Track(-speed * duration / 2, lane, 0.0, speed_s=speed)
