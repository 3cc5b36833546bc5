"""Calibration of the nuScenes recording vehicle: six cameras and one 32-beam LiDAR.

The numbers, in ``cameras.json`` and below, are the ``calibrated_sensor`` records of nuScenes
scene-0061 (v1.0-mini), which nuScenes publishes under CC BY-NC-SA 4.0. A camera's intrinsics
belong to 1600 x 900 pixels and are scaled with the image.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyquaternion import Quaternion

FULL_IMAGE_WIDTH = 1600
FULL_IMAGE_HEIGHT = 900


@dataclass(frozen=True)
class Mounting:
    """Where a sensor sits on the vehicle.

    Attributes:
        channel: nuScenes channel name, such as ``CAM_FRONT``.
        translation: Position of the sensor in the ego frame, metres.
        rotation: Quaternion (w, x, y, z), ego <- sensor.
    """

    channel: str
    translation: Sequence[float]
    rotation: Sequence[float]

    def ego_from_sensor(self) -> np.ndarray:
        """Return the (4, 4) transform ego <- sensor."""
        return rigid_transform(self.rotation, self.translation)


@dataclass(frozen=True)
class CameraCalibration(Mounting):
    """One camera of the rig; its frame has x to the right, y down and z forward.

    Attributes:
        focal_length: Focal length in pixels of a 1600 x 900 image.
        principal_point: Principal point (u, v) in pixels of a 1600 x 900 image.
    """

    focal_length: float
    principal_point: Sequence[float]

    def intrinsics(self, width: int, height: int) -> np.ndarray:
        """Return the (3, 3) pixel <- camera matrix for an image of ``width`` x ``height``."""
        (u, v), focal = self.principal_point, self.focal_length
        full = np.array([[focal, 0.0, u], [0.0, focal, v], [0.0, 0.0, 1.0]])
        return np.diag((width / FULL_IMAGE_WIDTH, height / FULL_IMAGE_HEIGHT, 1.0)) @ full


@dataclass(frozen=True)
class LidarCalibration(Mounting):
    """The roof LiDAR; its frame has x to the right, y forward and z up.

    Attributes:
        lowest_elevation_deg: Elevation of ring 0, degrees.
        highest_elevation_deg: Elevation of the last ring, degrees.
        num_rings: Number of lasers, spaced evenly in elevation.
    """

    lowest_elevation_deg: float
    highest_elevation_deg: float
    num_rings: int

    def ring_elevations(self) -> np.ndarray:
        """Return the (num_rings,) elevations in radians, ring 0 lowest."""
        return np.radians(
            np.linspace(self.lowest_elevation_deg, self.highest_elevation_deg, self.num_rings)
        )


CAMERAS = tuple(
    CameraCalibration(**camera)
    for camera in json.loads(Path(__file__).with_name('cameras.json').read_text())
)

LIDAR = LidarCalibration(
    channel='LIDAR_TOP',
    translation=(0.943713, 0.0, 1.84023),
    rotation=(0.7077955119, -0.0064922419, 0.0106462146, -0.7063073143),
    lowest_elevation_deg=-30.67,
    highest_elevation_deg=10.67,
    num_rings=32,
)

# Outline of the recording vehicle (a Renault Zoe) around the ego origin, the middle of its rear
# axle on the ground; nuScenes draws it with these sizes.
EGO_LENGTH = 4.084
EGO_WIDTH = 1.73
EGO_CENTER_AHEAD_OF_ORIGIN = 1.3


def rigid_transform(rotation: Sequence[float], translation: Sequence[float]) -> np.ndarray:
    """Return the (4, 4) transform with quaternion (w, x, y, z) and translation in metres."""
    transform = np.eye(4)
    transform[:3, :3] = Quaternion(rotation).rotation_matrix
    transform[:3, 3] = translation
    return transform
