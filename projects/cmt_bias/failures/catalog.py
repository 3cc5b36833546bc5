"""The failures that tests and trainings draw from."""

from collections.abc import Sequence
from dataclasses import dataclass

from .severity import SEVERITIES

CLEAN = 'clean'
"""Name of the test without any failure."""

NUM_SINGLE_VIEW_DROPS = 5
"""nuScenes has six cameras: one to five of them are dropped, or all."""


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


def protocol_failures() -> list[Failure]:
    """The failures of nuScenes-R (Yu et al., arXiv 2205.14951) as MoME (CVPR 2025) uses them."""
    lidar: list[tuple[str, str, dict]] = [
        ('lidar_beams_4', '4 of 32 beams', dict(type='LiDARBeamReduction', num_beams=4)),
        ('lidar_drop', 'LiDAR missing', dict(type='LiDARDrop')),
        ('lidar_fov_60', 'LiDAR sees +-60 degrees', dict(type='LiDARFieldOfView', half_angle=60)),
        (
            'lidar_objects_50',
            'half of the objects without points',
            dict(type='LiDARObjectFailure', probability=0.5),
        ),
    ]
    cameras: list[tuple[str, str, dict]] = [
        (
            f'camera_drop_{number}',
            f'{number} of the cameras missing',
            dict(type='CameraDrop', num_views=number),
        )
        for number in range(1, NUM_SINGLE_VIEW_DROPS + 1)
    ]
    cameras += [
        ('camera_drop_all', 'all cameras missing', dict(type='CameraDrop')),
        ('camera_occlusion', 'dirt on all lenses', dict(type='CameraOcclusion')),
    ]
    return [
        *(Failure(name, text, 'LiDAR', 'L', (step,)) for name, text, step in lidar),
        *(Failure(name, text, 'cameras', 'C', (step,)) for name, text, step in cameras),
    ]


def misleading_failures() -> list[Failure]:
    """Sensors that show something else than what is there; what is absent misleads nobody."""
    kinds: list[tuple[str, str, str, dict]] = [
        ('camera_frozen', 'pictures of 2 s ago', 'C', dict(type='CameraFrozen')),
        ('camera_foreign', 'pictures of another scene', 'C', dict(type='CameraForeignScene')),
        ('camera_mirror', 'mirrored pictures', 'C', dict(type='CameraMirror')),
        ('camera_shift', 'cameras knocked aside', 'C', dict(type='CameraShift')),
        ('lidar_ghosts', 'a ghost of every object', 'L', dict(type='LiDARGhosts')),
        ('lidar_frozen', 'the cloud of 1 s ago', 'L', dict(type='LiDARFrozen')),
    ]
    for name, text, _, step in kinds[:3]:
        some = dict(step, num_views=3)
        kinds.append((f'{name}_3', f'{text}, in 3 of the cameras', 'C', some))
    return [
        Failure(name, text, 'misleading', spoils, (step,)) for name, text, spoils, step in kinds
    ]


def degradations(severity: int) -> list[Failure]:
    """Worse data from working sensors, at one severity, 1 to 3."""
    kinds = [
        ('night', 'dark, noisy images', 'C', 'CameraNight'),
        ('rain', 'rain on images and points', 'LC', 'Rain'),
        ('fog', 'fog on the points', 'L', 'LiDARFog'),
        ('calibration', 'wrong mounting of the cameras', 'C', 'CalibrationError'),
        ('time_offset', 'LiDAR behind the cameras', 'L', 'LiDARTimeOffset'),
    ]
    return [
        Failure(
            f'{name}_{severity}',
            f'{text}, severity {severity}',
            'degradations',
            spoils,
            (dict(type=kind, severity=severity),),
        )
        for name, text, spoils, kind in kinds
    ]


def all_failures(severities: Sequence[int] = SEVERITIES) -> list[Failure]:
    """No failure, the protocol, the misleading ones, and the degradations at some severities."""
    clean = Failure(CLEAN, 'no failure', '', '', ())
    worse = [failure for severity in severities for failure in degradations(severity)]
    return [clean, *protocol_failures(), *misleading_failures(), *worse]
