"""Sensor failures and degradations, as transforms of a pipeline for testing or training.

They act on what the loading transforms give, in a pipeline of mmdet3d 1.4: points as
``BasePoints``, images as a list of arrays. :func:`with_failure` puts one into a test,
:class:`RandomFailure` draws one for each sample of a training.
"""

from .cameras import (
    CalibrationError,
    CameraDrop,
    CameraForeignScene,
    CameraFrozen,
    CameraMirror,
    CameraOcclusion,
    CameraShift,
)
from .catalog import CLEAN, Failure, all_failures
from .lidar import (
    LiDARBeamReduction,
    LiDARDrop,
    LiDARFieldOfView,
    LiDARFrozen,
    LiDARGhosts,
    LiDARObjectFailure,
    LiDARTimeOffset,
)
from .pipeline import with_failure
from .random_failure import FailureEpochHook, RandomFailure
from .scene_conditions import LabelSpoiledSensors, scene_condition
from .sensor_failure import CHANGED_KEY, SEVERITIES, SensorFailure
from .spoiled_parts import SpoiledPart
from .weather import CameraNight, LiDARFog, Rain

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
    'all_failures',
    'scene_condition',
    'with_failure',
]
