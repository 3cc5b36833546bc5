"""Cameras that are not where their calibration says."""

import cv2
import numpy as np
from mmdet3d.registry import TRANSFORMS

from .sensor_failure import SensorFailure
from .severity import at_severity

_LEVELS = ((0.5, 0.05), (1.0, 0.1), (2.0, 0.2))


@TRANSFORMS.register_module()
class CalibrationError(SensorFailure):
    """A wrong mounting of each camera against the LiDAR; points and images stay as they are.

    The counterpart of MultiCorrupt's "spatial misalignment". Each camera of each sample gets a
    small motion E of its own, a rotation about a random axis and a translation in a random
    direction, in its camera frame: ``lidar2cam`` becomes ``E lidar2cam``, and ``lidar2img``
    follows with the true ``cam2img``. Severity 1, 2, 3: angles of standard deviation 0.5, 1, 2
    degrees, distances of 0.05, 0.1, 0.2 m. ``ori_lidar2img``, which pictures are drawn with, and
    the calibration in ``images`` keep the truth.

    Args:
        severity: 1 to 3.
        seed: Seed of the draw.

    Raises:
        KeyError: If the sample has no ``cam2img``, or neither of the other two matrices.
    """

    spoiled = ('lidar2img', 'lidar2cam')

    def __init__(self, severity: int = 2, seed: int = 0) -> None:
        super().__init__(seed)
        self.severity = severity
        self.degrees, self.metres = at_severity(_LEVELS, severity, 'CalibrationError')

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        """See :meth:`SensorFailure.spoil`."""
        cam2img = _embedded(results['cam2img'])
        errors = np.stack([self._draw(rng) for _ in cam2img])
        if 'lidar2cam' in results:
            results['lidar2cam'] = errors @ _embedded(results['lidar2cam'])
        if 'lidar2img' in results:
            in_pixels = cam2img @ errors @ np.linalg.inv(cam2img)
            results['lidar2img'] = in_pixels @ _embedded(results['lidar2img'])

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """A motion (4, 4) of the camera frame, metres."""
        motion = np.eye(4)
        axis = _direction(rng)
        motion[:3, :3] = cv2.Rodrigues(axis * np.deg2rad(rng.normal(0, self.degrees)))[0]
        motion[:3, 3] = _direction(rng) * rng.normal(0, self.metres)
        return motion


def _direction(rng: np.random.Generator) -> np.ndarray:
    """A unit vector (3,), uniform over the sphere."""
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)


def _embedded(matrices: object) -> np.ndarray:
    """Matrices (V, 3, 3) to (V, 4, 4), or a list of them, as float64 (V, 4, 4)."""
    given = np.asarray(matrices, dtype=np.float64)
    embedded = np.tile(np.eye(4), (len(given), 1, 1))
    embedded[:, : given.shape[1], : given.shape[2]] = given
    return embedded
