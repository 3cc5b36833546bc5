"""Sensor failures and degradations, as transforms of a pipeline for testing or training.

They act on what the loading transforms of mmdet3d give: points as ``BasePoints``, images as a
list of arrays. :func:`with_failure` puts one into a test, :class:`RandomFailure` draws one for
each sample of a training.
"""

from . import cameras, lidar, scene_conditions, weather
from .catalog import CLEAN, Failure, RandomFailure, all_failures, find_failures, with_failure
from .sensor_failure import CHANGED_KEY, SEVERITIES

__all__ = [
    'CHANGED_KEY',
    'CLEAN',
    'SEVERITIES',
    'Failure',
    'RandomFailure',
    'all_failures',
    'cameras',
    'find_failures',
    'lidar',
    'scene_conditions',
    'weather',
    'with_failure',
]
