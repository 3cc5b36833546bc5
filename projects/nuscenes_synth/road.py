"""The street of one scene: a straight road or an arc, in road coordinates and on the ground."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

LANE_WIDTH = 3.5
ROAD_HALF_WIDTH = 2 * LANE_WIDTH
SIDEWALK_WIDTH = 3.5
CROSSING_HALF_WIDTH = LANE_WIDTH

# Traffic keeps right: negative offsets lead along the road, positive ones against it.
FORWARD_LANES = (-0.5 * LANE_WIDTH, -1.5 * LANE_WIDTH)
BACKWARD_LANES = (0.5 * LANE_WIDTH, 1.5 * LANE_WIDTH)


class Ground(IntEnum):
    """Kinds of ground surface."""

    ASPHALT = 0
    WHITE_MARKING = 1
    YELLOW_MARKING = 2
    PARKING = 3
    SIDEWALK = 4
    GRASS = 5


@dataclass(frozen=True)
class Road:
    """Road coordinates (s along the road, d to the left of its centre line), in metres.

    Attributes:
        origin: World (x, y) of s = d = 0.
        heading: World heading of the road at s = 0, radians.
        curvature: Reciprocal of the radius, 1/m; positive bends left, 0 is straight.
        parking_depth: Depth of the parking strips on the (right, left) side.
        crossing_s: Where another road crosses, or None. Only straight roads are crossed.
    """

    origin: tuple[float, float]
    heading: float
    curvature: float
    parking_depth: tuple[float, float]
    crossing_s: float | None

    def __post_init__(self) -> None:
        if self.crossing_s is not None and self.curvature:
            raise ValueError('only a straight road can have a crossing')

    def side_parking_depth(self, side: int) -> float:
        """Depth of the parking strip on one side; ``side`` is -1 (right) or 1 (left)."""
        return self.parking_depth[(side + 1) // 2]

    def building_line(self, side: int) -> float:
        """Distance of the house fronts from the centre line, metres."""
        return ROAD_HALF_WIDTH + self.side_parking_depth(side) + SIDEWALK_WIDTH + 1.0

    def to_world(
        self, s: np.ndarray | float, d: np.ndarray | float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Convert road coordinates to world x, y and the road's heading there."""
        s, d = np.asarray(s, dtype=float), np.asarray(d, dtype=float)
        if self.curvature:
            radius = 1.0 / self.curvature
            x = (radius - d) * np.sin(s / radius)
            y = radius - (radius - d) * np.cos(s / radius)
        else:
            x, y = s + 0.0 * d, d + 0.0 * s
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        return (
            self.origin[0] + cos * x - sin * y,
            self.origin[1] + sin * x + cos * y,
            self.heading + self.curvature * s,
        )

    def from_world(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert world x, y to road coordinates (s, d); the inverse of :meth:`to_world`."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        offset_x, offset_y = x - x.dtype.type(self.origin[0]), y - y.dtype.type(self.origin[1])
        along = x.dtype.type(cos) * offset_x + x.dtype.type(sin) * offset_y
        left = x.dtype.type(cos) * offset_y - x.dtype.type(sin) * offset_x
        if not self.curvature:
            return along, left
        radius = 1.0 / self.curvature
        sign = np.sign(radius)
        distance = np.hypot(along, radius - left)
        s = radius * np.arctan2(sign * along, sign * (radius - left))
        return s, radius - sign * distance

    def ground_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Classify ground points.

        Args:
            x: (N,) world x in metres.
            y: (N,) world y.

        Returns:
            (N,) uint8 values of :class:`Ground`.
        """
        s, d = self.from_world(x, y)
        offset = np.abs(d)
        parking_edge = ROAD_HALF_WIDTH + np.where(d < 0, *self.parking_depth)
        result = np.full(s.shape, Ground.ASPHALT, dtype=np.uint8)
        dashes = np.mod(s, 9.0) < 3.0
        result[(np.abs(offset - LANE_WIDTH) < 0.08) & dashes] = Ground.WHITE_MARKING
        result[np.abs(offset - 0.15) < 0.07] = Ground.YELLOW_MARKING
        result[np.abs(offset - ROAD_HALF_WIDTH) < 0.08] = Ground.WHITE_MARKING
        result[offset > ROAD_HALF_WIDTH + 0.08] = Ground.PARKING
        bay_line = (np.mod(s, 5.5) < 0.12) & (offset > ROAD_HALF_WIDTH + 0.08)
        result[bay_line] = Ground.WHITE_MARKING
        result[offset > parking_edge] = Ground.SIDEWALK
        result[offset > parking_edge + SIDEWALK_WIDTH] = Ground.GRASS
        if self.crossing_s is not None:
            self._paint_crossing(result, s - self.crossing_s, offset)
        return result

    def _paint_crossing(self, ground: np.ndarray, along: np.ndarray, offset: np.ndarray) -> None:
        """Overwrite ``ground`` with the crossing road; ``along`` is s from its centre line."""
        distance = np.abs(along)
        on_crossing = distance < CROSSING_HALF_WIDTH
        ground[on_crossing] = Ground.ASPHALT
        outside = offset > ROAD_HALF_WIDTH + 4.0
        ground[on_crossing & outside & (distance < 0.08)] = Ground.YELLOW_MARKING
        zebra = (distance > CROSSING_HALF_WIDTH + 0.8) & (distance < CROSSING_HALF_WIDTH + 3.8)
        stripes = np.mod(offset, 1.2) < 0.6
        ground[zebra & stripes & (offset < ROAD_HALF_WIDTH)] = Ground.WHITE_MARKING
