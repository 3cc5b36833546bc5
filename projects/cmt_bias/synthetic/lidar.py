"""A spinning LiDAR cast against the boxes and the ground of a scene."""

from dataclasses import dataclass

import numpy as np

from .boxes import SolidBoxes, intersect_box
from .rig import LidarCalibration
from .weather import Weather

_MIN_RANGE = 1.5
_MAX_RANGE = 70.0
_RANGE_NOISE = 0.015
_GROUND_REFLECTIVITY = 9.0
# Range at which a surface of reflectivity 1 (of 255) gives the weakest echo that still counts;
# the received power falls with the square of the range.
_DETECTION_RANGE_PER_SQRT_ECHO = 28.0


@dataclass(frozen=True)
class LidarSimulator:
    """Casts one revolution of a spinning LiDAR.

    Attributes:
        calibration: Mounting and ring angles.
        num_azimuths: Firings per revolution.
    """

    calibration: LidarCalibration
    num_azimuths: int

    def scan(
        self,
        boxes: SolidBoxes,
        world_from_sensor: np.ndarray,
        weather: Weather,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return the echoes of one revolution, taken in one instant.

        Args:
            boxes: Solids in the world.
            world_from_sensor: (4, 4) pose of the sensor.
            weather: Decides on lost and false echoes.
            rng: Source of noise.

        Returns:
            (N, 5) float32 x, y, z in metres in the sensor frame, intensity 0 to 255, ring
            index; in firing order: clockwise, within a firing from the lowest ring up.
        """
        directions = self._directions()  # (azimuths, rings, 3), sensor frame
        world_directions = (directions @ world_from_sensor[:3, :3].T).astype(np.float32)
        ranges, echo = self._cast(boxes, world_from_sensor, directions, world_directions)
        ranges, echo = _apply_weather(ranges, echo, weather, rng)
        reach = _DETECTION_RANGE_PER_SQRT_ECHO * np.sqrt(np.maximum(echo, 0.0))
        detected = (ranges > _MIN_RANGE) & (ranges < np.minimum(_MAX_RANGE, reach))
        noisy = ranges + rng.normal(0.0, _RANGE_NOISE, ranges.shape)
        points = np.zeros((*ranges.shape, 5), dtype=np.float32)
        with np.errstate(invalid='ignore'):
            points[..., :3] = noisy[..., None] * directions
        jitter = rng.normal(1.0, 0.08, echo.shape)
        points[..., 3] = np.clip(np.round(echo * jitter), 0, 255)
        points[..., 4] = np.arange(self.calibration.num_rings)
        return points[detected]

    def _directions(self) -> np.ndarray:
        """Unit vectors of all beams in the sensor frame, (azimuths, rings, 3)."""
        azimuths = np.pi - (np.arange(self.num_azimuths) + 0.5) * 2 * np.pi / self.num_azimuths
        elevations = self.calibration.ring_elevations()
        level = np.stack([np.cos(azimuths), np.sin(azimuths)], axis=-1)  # (azimuths, 2)
        directions = np.empty((len(azimuths), len(elevations), 3))
        directions[..., :2] = level[:, None] * np.cos(elevations)[None, :, None]
        directions[..., 2] = np.sin(elevations)
        return directions

    def _cast(
        self,
        boxes: SolidBoxes,
        world_from_sensor: np.ndarray,
        directions: np.ndarray,
        world_directions: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Range of the nearest surface (inf if none) and its echo strength, per beam."""
        origin = world_from_sensor[:3, 3]
        with np.errstate(divide='ignore'):
            to_ground = np.float32(-origin[2]) / world_directions[..., 2]
        ranges = np.where(world_directions[..., 2] < 0, to_ground, np.float32(np.inf))
        # A grazing road sends little back.
        echo = _GROUND_REFLECTIVITY * np.sqrt(np.abs(world_directions[..., 2]))
        for index, columns in self._columns_to_test(boxes, world_from_sensor):
            hit = intersect_box(
                origin,
                world_directions[columns],
                boxes.centers[index],
                boxes.half_sizes[index],
                boxes.yaws[index],
            )
            nearer = hit < ranges[columns]
            ranges[columns] = np.where(nearer, hit, ranges[columns])
            echo[columns] = np.where(nearer, boxes.reflectivity[index], echo[columns])
        return ranges, echo

    def _columns_to_test(
        self, boxes: SolidBoxes, world_from_sensor: np.ndarray
    ) -> list[tuple[int, np.ndarray]]:
        """For each box within range, its index and the firings whose azimuth it spans."""
        corners = boxes.corners() - world_from_sensor[:3, 3]
        corners = corners @ world_from_sensor[:3, :3]  # (N, 8, 3), sensor frame
        azimuths = np.arctan2(corners[..., 1], corners[..., 0])  # (N, 8)
        middle = corners.mean(axis=1)
        middle_azimuth = np.arctan2(middle[:, 1], middle[:, 0])
        spread = azimuths - middle_azimuth[:, None]
        spread = np.mod(spread + np.pi, 2 * np.pi) - np.pi
        step = 2 * np.pi / self.num_azimuths
        first = np.floor((np.pi - (middle_azimuth + spread.max(axis=1))) / step).astype(int) - 1
        last = np.ceil((np.pi - (middle_azimuth + spread.min(axis=1))) / step).astype(int) + 1
        # A box above or around the sensor spans every azimuth.
        surrounds = (spread.max(axis=1) - spread.min(axis=1)) > 0.9 * np.pi
        reach = np.linalg.norm(boxes.half_sizes, axis=1)
        in_range = np.linalg.norm(middle, axis=1) - reach < _MAX_RANGE
        return [
            (
                int(index),
                np.arange(self.num_azimuths)
                if surrounds[index]
                else np.unique(np.mod(np.arange(first[index], last[index]), self.num_azimuths)),
            )
            for index in np.flatnonzero(in_range)
        ]


def _apply_weather(
    ranges: np.ndarray, echo: np.ndarray, weather: Weather, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Lose echoes, and replace some by those of drops close to the sensor."""
    finite = np.where(np.isfinite(ranges), ranges, 0.0)
    kept = (1 - weather.lidar_dropout) * np.exp(-finite / weather.lidar_dropout_distance)
    ranges = np.where(rng.random(ranges.shape) < kept, ranges, np.inf)
    clutter = rng.random(ranges.shape) < weather.lidar_clutter
    drops = _MIN_RANGE + rng.exponential(3.0, ranges.shape)
    is_drop = clutter & (drops < ranges)
    return np.where(is_drop, drops, ranges), np.where(is_drop, 2.0, echo)
