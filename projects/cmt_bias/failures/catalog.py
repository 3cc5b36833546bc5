"""The failures that tests and trainings draw from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .sensor_failure import SEVERITIES

CLEAN = 'clean'
"""Name of the test without any failure."""


@dataclass(frozen=True)
class Failure:
    """One failure with its settings.

    Attributes:
        name: Short and unique, usable as a file name.
        description: What happens, for the report.
        group: 'LiDAR', 'cameras', 'misleading' or 'degradations'; '' without failure.
        spoils: Sensors that give wrong data: 'L', 'C', 'LC', or '' without failure.
        transforms: Configs of the transforms, without seed.
    """

    name: str
    description: str
    group: str
    spoils: str
    transforms: tuple[dict, ...]

    @property
    def healthy(self) -> str:
        """The sensor that alone is left healthy: 'L', 'C', or '' if there is no such."""
        return {'L': 'C', 'C': 'L'}.get(self.spoils, '')

    def applies_to(self, sensors: str) -> bool:
        """Whether it spoils anything for a model that reads ``sensors``: 'LC', 'L' or 'C'."""
        return not self.spoils or any(sensor in sensors for sensor in self.spoils)

    def seeded(self, seed: int) -> list[dict]:
        """Configs of the transforms with their seed."""
        return [dict(transform, seed=seed) for transform in self.transforms]


def all_failures(severities: Sequence[int] = SEVERITIES) -> list[Failure]:
    """No failure, then all of them, the degradations at some severities (1 to 3).

    The groups 'LiDAR' and 'cameras' are the failures of nuScenes-R (Yu et al., arXiv 2205.14951)
    as MoME (CVPR 2025) uses them; 'misleading' sensors show something else than what is there;
    'degradations' are worse data from working sensors.
    """
    found = [Failure(CLEAN, 'no failure', '', '', ())]

    def add(name: str, text: str, group: str, spoils: str, kind: str, **settings: Any) -> None:
        found.append(Failure(name, text, group, spoils, (dict(type=kind, **settings),)))

    add('lidar_beams_4', '4 of 32 beams', 'LiDAR', 'L', 'LiDARBeamReduction', num_beams=4)
    add('lidar_drop', 'LiDAR missing', 'LiDAR', 'L', 'LiDARDrop')
    add('lidar_fov_60', 'LiDAR sees +-60 degrees', 'LiDAR', 'L', 'LiDARFieldOfView', half_angle=60)
    text = 'half of the objects without points'
    add('lidar_objects_50', text, 'LiDAR', 'L', 'LiDARObjectFailure', probability=0.5)
    for number in range(1, 6):  # of six cameras
        text = f'{number} of the cameras missing'
        add(f'camera_drop_{number}', text, 'cameras', 'C', 'CameraDrop', num_views=number)
    add('camera_drop_all', 'all cameras missing', 'cameras', 'C', 'CameraDrop')
    add('camera_occlusion', 'dirt on all lenses', 'cameras', 'C', 'CameraOcclusion')

    pictures = (
        ('camera_frozen', 'pictures of 2 s ago', 'CameraFrozen'),
        ('camera_foreign', 'pictures of another scene', 'CameraForeignScene'),
        ('camera_mirror', 'mirrored pictures', 'CameraMirror'),
    )
    for name, text, kind in pictures:
        add(name, text, 'misleading', 'C', kind)
    add('camera_shift', 'cameras knocked aside', 'misleading', 'C', 'CameraShift')
    add('lidar_ghosts', 'a ghost of every object', 'misleading', 'L', 'LiDARGhosts')
    add('lidar_frozen', 'the cloud of 1 s ago', 'misleading', 'L', 'LiDARFrozen')
    for name, text, kind in pictures:
        text = f'{text}, in 3 of the cameras'
        add(f'{name}_3', text, 'misleading', 'C', kind, num_views=3)

    for severity in severities:
        for name, text, spoils, kind in (
            ('night', 'dark, noisy images', 'C', 'CameraNight'),
            ('rain', 'rain on images and points', 'LC', 'Rain'),
            ('fog', 'fog on the points', 'L', 'LiDARFog'),
            ('calibration', 'wrong mounting of the cameras', 'C', 'CalibrationError'),
            ('time_offset', 'LiDAR behind the cameras', 'L', 'LiDARTimeOffset'),
        ):
            text = f'{text}, severity {severity}'
            add(f'{name}_{severity}', text, 'degradations', spoils, kind, severity=severity)
    return found
