"""A spinning LiDAR cast against the boxes and the ground of a scene."""

import numpy as np

from .raycasting import TRIANGLES_PER_BOX, RayCaster, Rays
from .rig import LidarCalibration
from .weather import Weather

_MIN_RANGE = 1.5
_MAX_RANGE = 70.0
_RANGE_NOISE = 0.015
_GROUND_REFLECTIVITY = 9.0
_DROP_REFLECTIVITY = 2.0
# Range at which a surface of reflectivity 1 (of 255) gives the weakest echo that still counts;
# the received power falls with the square of the range.
_DETECTION_RANGE_PER_SQRT_ECHO = 28.0


class LidarSimulator:
    """Casts revolutions of a spinning LiDAR.

    Args:
        calibration: Mounting and ring angles.
        num_azimuths: Firings per revolution.
    """

    def __init__(self, calibration: LidarCalibration, num_azimuths: int) -> None:
        self._num_rings = calibration.num_rings
        self._directions = _beam_directions(calibration, num_azimuths)
        ego_from_sensor = calibration.ego_from_sensor()
        self._rays = Rays(ego_from_sensor[:3, 3], self._directions @ ego_from_sensor[:3, :3].T)

    def scan(self, caster: RayCaster, weather: Weather, rng: np.random.Generator) -> np.ndarray:
        """Return the echoes of one revolution, taken in one instant.

        Args:
            caster: Ray caster with the solids in the ego frame.
            weather: Decides on lost and false echoes.
            rng: Source of noise.

        Returns:
            (N, 5) float32 x, y, z in metres in the sensor frame, intensity 0 to 255, ring
            index; in firing order: clockwise, within a firing from the lowest ring up.
        """
        directions = self._directions  # (azimuths, rings, 3)
        hits = caster.cast(self._rays)
        # A grazing road sends little back.
        echo = _GROUND_REFLECTIVITY * np.sqrt(np.abs(directions[..., 2]))
        on_box = hits.triangle >= 0
        echo[on_box] = caster.boxes.reflectivity[hits.triangle[on_box] // TRIANGLES_PER_BOX]
        ranges, echo = _apply_weather(hits.distance, echo, weather, rng)
        reach = _DETECTION_RANGE_PER_SQRT_ECHO * np.sqrt(echo)
        detected = (ranges > _MIN_RANGE) & (ranges < np.minimum(_MAX_RANGE, reach))
        noisy = ranges + rng.normal(0.0, _RANGE_NOISE, ranges.shape)
        points = np.zeros((*ranges.shape, 5), dtype=np.float32)
        with np.errstate(invalid='ignore'):
            points[..., :3] = noisy[..., None] * directions
        jitter = rng.normal(1.0, 0.08, echo.shape)
        points[..., 3] = np.clip(np.round(echo * jitter), 0, 255)
        points[..., 4] = np.arange(self._num_rings)
        return points[detected]


def _beam_directions(calibration: LidarCalibration, num_azimuths: int) -> np.ndarray:
    """Unit vectors of all beams in the sensor frame, (azimuths, rings, 3)."""
    azimuths = np.pi - (np.arange(num_azimuths) + 0.5) * 2 * np.pi / num_azimuths
    elevations = calibration.ring_elevations()
    level = np.stack([np.cos(azimuths), np.sin(azimuths)], axis=-1)  # (azimuths, 2)
    directions = np.empty((len(azimuths), len(elevations), 3))
    directions[..., :2] = level[:, None] * np.cos(elevations)[None, :, None]
    directions[..., 2] = np.sin(elevations)
    return directions


def _apply_weather(
    ranges: np.ndarray, echo: np.ndarray, weather: Weather, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Lose echoes, and replace some by those of drops close to the sensor."""
    finite = np.where(np.isfinite(ranges), ranges, 0.0)
    kept = (1 - weather.lidar_dropout) * np.exp(-finite / weather.lidar_range)
    ranges = np.where(rng.random(ranges.shape) < kept, ranges, np.inf)
    clutter = rng.random(ranges.shape) < weather.lidar_clutter
    drops = _MIN_RANGE + rng.exponential(3.0, ranges.shape)
    is_drop = clutter & (drops < ranges)
    return np.where(is_drop, drops, ranges), np.where(is_drop, _DROP_REFLECTIVITY, echo)
