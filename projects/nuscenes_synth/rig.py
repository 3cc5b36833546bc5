"""Calibration of the nuScenes recording vehicle: six cameras and one 32-beam LiDAR.

The numbers are the ``calibrated_sensor`` records of nuScenes scene-0061 (v1.0-mini), which
nuScenes publishes under CC BY-NC-SA 4.0. A camera's intrinsics belong to 1600 x 900 pixels and
are scaled with the image.
"""

from dataclasses import dataclass

import numpy as np
from pyquaternion import Quaternion

FULL_IMAGE_WIDTH = 1600
FULL_IMAGE_HEIGHT = 900


@dataclass(frozen=True)
class CameraCalibration:
    """One camera of the rig.

    Attributes:
        channel: nuScenes channel name, such as ``CAM_FRONT``.
        translation: Position of the camera in the ego frame, metres.
        rotation: Quaternion (w, x, y, z), ego <- camera (x right, y down, z forward).
        focal_length: Focal length in pixels of a 1600 x 900 image.
        principal_point: Principal point (u, v) in pixels of a 1600 x 900 image.
    """

    channel: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    focal_length: float
    principal_point: tuple[float, float]

    def ego_from_sensor(self) -> np.ndarray:
        """Return the (4, 4) transform ego <- camera."""
        return rigid_transform(self.rotation, self.translation)

    def intrinsics(self, width: int, height: int) -> np.ndarray:
        """Return the (3, 3) pixel <- camera matrix for an image of ``width`` x ``height``."""
        scale_u, scale_v = width / FULL_IMAGE_WIDTH, height / FULL_IMAGE_HEIGHT
        return np.array(
            [
                [self.focal_length * scale_u, 0.0, self.principal_point[0] * scale_u],
                [0.0, self.focal_length * scale_v, self.principal_point[1] * scale_v],
                [0.0, 0.0, 1.0],
            ]
        )


@dataclass(frozen=True)
class LidarCalibration:
    """The roof LiDAR; its frame has x to the right, y forward and z up.

    Attributes:
        channel: nuScenes channel name.
        translation: Position of the LiDAR in the ego frame, metres.
        rotation: Quaternion (w, x, y, z), ego <- LiDAR.
        lowest_elevation_deg: Elevation of ring 0, degrees.
        highest_elevation_deg: Elevation of the last ring, degrees.
        num_rings: Number of lasers, spaced evenly in elevation.
    """

    channel: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    lowest_elevation_deg: float
    highest_elevation_deg: float
    num_rings: int

    def ego_from_sensor(self) -> np.ndarray:
        """Return the (4, 4) transform ego <- LiDAR."""
        return rigid_transform(self.rotation, self.translation)

    def ring_elevations(self) -> np.ndarray:
        """Return the (num_rings,) elevations in radians, ring 0 lowest."""
        return np.radians(
            np.linspace(self.lowest_elevation_deg, self.highest_elevation_deg, self.num_rings)
        )


CAMERAS = (
    CameraCalibration(
        'CAM_FRONT',
        (1.700791, 0.015946, 1.510958),
        (0.499801543, -0.503031616, 0.499779811, -0.497370838),
        1266.417203,
        (816.267020, 491.507066),
    ),
    CameraCalibration(
        'CAM_FRONT_RIGHT',
        (1.550848, -0.493405, 1.495748),
        (0.206034793, -0.202694054, 0.682450784, -0.671361089),
        1260.847445,
        (807.968245, 495.334427),
    ),
    CameraCalibration(
        'CAM_BACK_RIGHT',
        (1.014878, -0.480568, 1.562395),
        (0.122809800, -0.132400842, -0.700430582, 0.690496031),
        1259.513741,
        (807.252905, 501.195799),
    ),
    CameraCalibration(
        'CAM_BACK',
        (0.028326, 0.003451, 1.579103),
        (0.503787267, -0.497402498, -0.494185022, 0.504549610),
        809.220991,
        (829.219600, 481.778424),
    ),
    CameraCalibration(
        'CAM_BACK_LEFT',
        (1.035691, 0.484795, 1.590970),
        (0.692418559, -0.703161942, -0.116483430, 0.112033181),
        1256.741481,
        (792.112574, 492.775747),
    ),
    CameraCalibration(
        'CAM_FRONT_LEFT',
        (1.523878, 0.494631, 1.509328),
        (0.675726504, -0.673626653, 0.212140149, -0.211228269),
        1272.597947,
        (826.615493, 479.751654),
    ),
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
EGO_HEIGHT = 1.562
EGO_CENTER_AHEAD_OF_ORIGIN = 1.3


def rigid_transform(
    rotation: tuple[float, float, float, float], translation: tuple[float, float, float]
) -> np.ndarray:
    """Return the (4, 4) transform with quaternion (w, x, y, z) and translation in metres."""
    transform = np.eye(4)
    transform[:3, :3] = Quaternion(rotation).rotation_matrix
    transform[:3, 3] = translation
    return transform
