"""One synthetic scene: a street, its weather, the objects on it and the ego vehicle's drive."""

from dataclasses import dataclass

import numpy as np

from .boxes import SolidBoxes
from .rig import rigid_transform
from .road import FORWARD_LANES, Road
from .scenery import build_scenery
from .traffic import Actor, Track, TrafficPlanner
from .weather import WEATHERS, Weather


@dataclass(frozen=True)
class SyntheticScene:
    """Everything the sensors can see, as functions of the time in seconds from scene start.

    Attributes:
        road: The street.
        weather: Day, night or rain.
        ego: Motion of the ego frame's origin.
        actors: Annotated objects.
        scenery: Houses, trees, lamp posts.
    """

    road: Road
    weather: Weather
    ego: Track
    actors: list[Actor]
    scenery: SolidBoxes

    def actor_poses(self, time: float) -> np.ndarray:
        """Return the (N, 3) world x, y, yaw of the actors."""
        times = np.array([time])
        poses = [actor.track.poses(self.road, times)[0] for actor in self.actors]
        return np.array(poses).reshape(-1, 3)

    def solids(self, time: float) -> SolidBoxes:
        """Return all boxes in the world; ``owners`` index :attr:`actors`, -1 is scenery."""
        placed = [
            actor.solid.placed(x, y, yaw, owner=index)
            for index, (actor, (x, y, yaw)) in enumerate(
                zip(self.actors, self.actor_poses(time), strict=True)
            )
        ]
        return SolidBoxes.concatenate([*placed, self.scenery])

    def world_from_ego(self, time: float) -> np.ndarray:
        """Return the (4, 4) pose of the ego frame in the world."""
        x, y, yaw = self.ego.poses(self.road, np.array([time]))[0]
        rotation = (float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2)))
        return rigid_transform(rotation, (float(x), float(y), 0.0))


def build_scene(
    rng: np.random.Generator,
    weather: str,
    origin: tuple[float, float],
    duration: float,
) -> SyntheticScene:
    """Draw a scene.

    Args:
        rng: Source of all draws.
        weather: Key of :data:`cmt_bias.synthetic.weather.WEATHERS`.
        origin: World (x, y) of the middle of the street, metres.
        duration: Time from the first to the last keyframe, seconds.

    Raises:
        KeyError: If the weather is unknown.
    """
    road = _draw_road(rng, origin)
    speed = 0.0 if rng.random() < 0.1 else float(rng.uniform(2.0, 8.0))
    ego = Track(
        s=-speed * duration / 2,
        d=float(rng.choice(FORWARD_LANES)),
        speed_s=speed,
        speed_d=0.0,
        yaw_offset=0.0,
    )
    scenery = build_scenery(road, rng)
    actors = TrafficPlanner(road, ego, duration, scenery, rng).populate()
    return SyntheticScene(road, WEATHERS[weather], ego, actors, scenery)


def _draw_road(rng: np.random.Generator, origin: tuple[float, float]) -> Road:
    shape = rng.choice(('straight', 'crossing', 'bend'))
    curvature = 0.0
    crossing_s = None
    if shape == 'bend':
        curvature = float(rng.choice((-1.0, 1.0)) / rng.uniform(60.0, 150.0))
    elif shape == 'crossing':
        crossing_s = float(rng.uniform(-5.0, 30.0))
    right, left = (float(depth) for depth in rng.choice((2.4, 5.4), size=2))
    return Road(
        origin=origin,
        heading=float(rng.uniform(-np.pi, np.pi)),
        curvature=curvature,
        parking_depth=(right, left),
        crossing_s=crossing_s,
    )
