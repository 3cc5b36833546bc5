"""Sensor failures and degradations, as transforms of a pipeline for testing or training.

They act on what the loading transforms give, in a pipeline of mmdet3d 1.4: points as
``BasePoints``, images as a list of arrays. :func:`with_failure` puts one into a test,
:class:`RandomFailure` draws one for each sample of a training.
"""

from .calibration_error import CalibrationError
from .camera_mounting import CameraMirror, CameraShift
from .camera_night import CameraNight
from .camera_occlusion import CameraOcclusion
from .catalog import (
    CLEAN,
    Failure,
    all_failures,
    degradations,
    misleading_failures,
    protocol_failures,
)
from .lidar_beams import LiDARBeamReduction
from .lidar_field_of_view import LiDARFieldOfView
from .lidar_fog import LiDARFog
from .lidar_ghosts import LiDARGhosts
from .lidar_object_failure import LiDARObjectFailure
from .missing_sensors import CameraDrop, LiDARDrop
from .pipeline import with_failure
from .rain import Rain
from .random_failure import FailureEpochHook, RandomFailure
from .scene_conditions import LabelSpoiledSensors, scene_condition
from .sensor_failure import CHANGED_KEY, SensorFailure, UnchangedInputError
from .severity import SEVERITIES
from .spoiled_parts import SpoiledPart
from .time_offset import LiDARTimeOffset
from .wrong_frames import CameraForeignScene, CameraFrozen, LiDARFrozen

__all__ = [
    'CHANGED_KEY',
    'CLEAN',
    'SEVERITIES',
    'CalibrationError',
    'CameraDrop',
    'CameraForeignScene',
    'CameraFrozen',
    'CameraMirror',
    'CameraNight',
    'CameraOcclusion',
    'CameraShift',
    'Failure',
    'FailureEpochHook',
    'LabelSpoiledSensors',
    'LiDARBeamReduction',
    'LiDARDrop',
    'LiDARFieldOfView',
    'LiDARFog',
    'LiDARFrozen',
    'LiDARGhosts',
    'LiDARObjectFailure',
    'LiDARTimeOffset',
    'Rain',
    'RandomFailure',
    'SensorFailure',
    'SpoiledPart',
    'UnchangedInputError',
    'all_failures',
    'degradations',
    'misleading_failures',
    'protocol_failures',
    'scene_condition',
    'with_failure',
]
