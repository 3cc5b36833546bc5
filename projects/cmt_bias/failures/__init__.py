"""Sensor failures and degradations for robustness tests, as transforms of a test pipeline.

They act on what the loading transforms give, in a pipeline of mmdet3d 1.4: points as
``BasePoints``, images as a list of arrays. :func:`with_failure` puts them there.
"""

from .calibration_error import CalibrationError
from .camera_night import CameraNight
from .camera_occlusion import CameraOcclusion
from .catalog import CLEAN, Failure, all_failures, degradations, protocol_failures
from .lidar_beams import LiDARBeamReduction
from .lidar_field_of_view import LiDARFieldOfView
from .lidar_fog import LiDARFog
from .lidar_object_failure import LiDARObjectFailure
from .missing_sensors import CameraDrop, LiDARDrop
from .pipeline import with_failure
from .rain import Rain
from .scene_conditions import LabelSpoiledSensors, scene_condition
from .sensor_failure import CHANGED_KEY, SensorFailure, UnchangedInputError
from .severity import SEVERITIES
from .time_offset import LiDARTimeOffset

__all__ = [
    'CHANGED_KEY',
    'CLEAN',
    'SEVERITIES',
    'CalibrationError',
    'CameraDrop',
    'CameraNight',
    'CameraOcclusion',
    'Failure',
    'LabelSpoiledSensors',
    'LiDARBeamReduction',
    'LiDARDrop',
    'LiDARFieldOfView',
    'LiDARFog',
    'LiDARObjectFailure',
    'LiDARTimeOffset',
    'Rain',
    'SensorFailure',
    'UnchangedInputError',
    'all_failures',
    'degradations',
    'protocol_failures',
    'scene_condition',
    'with_failure',
]
