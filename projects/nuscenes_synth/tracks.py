"""How things move: at constant speed in road coordinates, or round a corner."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from .road import CROSSING_HALF_WIDTH, FORWARD_LANES, Road


@dataclass(frozen=True)
class Track:
    """Motion at constant speed in road coordinates.

    Attributes:
        s: Position along the road at time 0, metres.
        d: Offset to the left of the centre line at time 0, metres.
        yaw_offset: Heading relative to the road, radians.
        speed_s: Speed along the road, m/s.
        speed_d: Speed across the road, m/s.
    """

    s: float
    d: float
    yaw_offset: float
    speed_s: float = 0.0
    speed_d: float = 0.0

    def delayed(self, time: float) -> 'Track':
        """Return the motion that is at ``time`` where this one is at time 0."""
        s, d = self.s - self.speed_s * time, self.d - self.speed_d * time
        return dataclasses.replace(self, s=s, d=d)

    def poses(self, road: Road, times: np.ndarray) -> np.ndarray:
        """Return (T, 3) world x, y, yaw at ``times`` in seconds."""
        x, y, heading = road.to_world(self.s + self.speed_s * times, self.d + self.speed_d * times)
        return np.stack([x, y, heading + self.yaw_offset], axis=-1)


def poses_at(time: float, tracks: list[Track], road: Road) -> np.ndarray:
    """Return the (N, 3) world x, y, yaw of many tracks at one time."""
    s, d, yaw_offset, speed_s, speed_d = np.array(
        [(track.s, track.d, track.yaw_offset, track.speed_s, track.speed_d) for track in tracks]
    ).T
    x, y, heading = road.to_world(s + speed_s * time, d + speed_d * time)
    return np.stack([x, y, heading + yaw_offset], axis=-1)


@dataclass(frozen=True)
class Turn:
    """A turn off a straight road into the one that crosses it, at constant speed.

    Attributes:
        side: 1 to the left, -1 to the right.
        radius: Radius of the arc in metres.
        speed: Speed in m/s.
        start: Way still to go to the beginning of the arc at time 0, metres.
    """

    side: int
    radius: float
    speed: float
    start: float

    def poses(self, road: Road, times: np.ndarray) -> np.ndarray:
        """Return (T, 3) world x, y, yaw at ``times`` in seconds.

        Raises:
            ValueError: If no road crosses.
        """
        if road.crossing_s is None:
            raise ValueError('there is no crossing to turn at')
        # From the lane next to the turn into the right-hand lane of the crossing road.
        lane = FORWARD_LANES[0] if self.side > 0 else FORWARD_LANES[1]
        arc_s = road.crossing_s + self.side * CROSSING_HALF_WIDTH / 2 - self.radius
        way = self.speed * times - self.start
        angle = np.clip(way / self.radius, 0.0, np.pi / 2)
        beyond = np.maximum(way - self.radius * np.pi / 2, 0.0)
        s = arc_s + np.minimum(way, 0.0) + self.radius * np.sin(angle)
        d = lane + self.side * (self.radius * (1 - np.cos(angle)) + beyond)
        x, y, heading = road.to_world(s, d)
        return np.stack([x, y, heading + self.side * angle], axis=-1)


Motion = Track | Turn
