"""The failures that tests and trainings draw from, and how one comes into a pipeline."""

import copy
import fnmatch
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mmdet3d.datasets.transforms import Pack3DDetInputs

from ..config_type import type_name
from ..spoiled_parts import SPOILED_REGIONS_KEY, SPOILED_SENSORS_KEY, SPOILED_VIEWS_KEY
from .sensor_failure import CHANGED_KEY, SEVERITIES

CLEAN = 'clean'
"""Name of the test without any failure."""

_ADDED_KEYS = (CHANGED_KEY, SPOILED_SENSORS_KEY, SPOILED_VIEWS_KEY, SPOILED_REGIONS_KEY)


@dataclass(frozen=True)
class Failure:
    """One failure; of :data:`CLEAN` ``group`` and ``spoils`` are '' and ``transforms`` empty."""

    name: str  # unique, usable as a file name
    description: str  # what happens, for the report
    group: str  # 'LiDAR', 'cameras', 'misleading' or 'degradations'
    spoils: str  # sensors that give wrong data: 'L', 'C' or 'LC'
    transforms: tuple[dict, ...]  # their configs, without seed

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
    for n in range(1, 6):  # of six cameras
        text = f'{n} of the cameras missing'
        add(f'camera_drop_{n}', text, 'cameras', 'C', 'CameraDrop', num_views=n)
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
        add(f'{name}_3', f'{text}, in 3 of the cameras', 'misleading', 'C', kind, num_views=3)

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


def find_failures(patterns: Sequence[str], severities: Sequence[int] = (2,)) -> list[Failure]:
    """The failures that names, maybe with wildcards, stand for, the clean test first.

    Degradations that a wildcard stands for have the given severities. A ValueError is raised for a
    pattern that fits no failure.
    """
    everything = {failure.name: failure for failure in all_failures()}
    listed = [failure.name for failure in all_failures(severities)]
    found = {
        pattern: [pattern] if pattern in everything else fnmatch.filter(listed, pattern)
        for pattern in patterns
    }
    unknown = ', '.join(pattern for pattern, names in found.items() if not names)
    if unknown:
        raise ValueError(f'no failures are called {unknown}; there are {", ".join(everything)}')
    names = {CLEAN, *chain(*found.values())}
    return [failure for name, failure in everything.items() if name in names]


def with_failure(pipeline: Sequence[Mapping], failure: Iterable[Mapping]) -> list[dict]:
    """A copy of a pipeline (its configs) with the configs of a failure's transforms in it.

    The failure comes right behind the last transform with "Load" in its name, hence before every
    augmentation and filter. The packing passes what it tells on as meta information. A ValueError
    is raised for a pipeline without loading transform or packing at its top level.
    """
    steps = [dict(copy.deepcopy(step)) for step in pipeline]
    kinds = [type_name(step) for step in steps]
    behind = max((i + 1 for i, kind in enumerate(kinds) if 'Load' in kind), default=0)
    if not behind or 'Pack3DDetInputs' not in kinds:
        lacking = 'Pack3DDetInputs' if behind else 'transform that loads something'
        raise ValueError(
            f'the test pipeline has no {lacking} at its top level ({", ".join(kinds) or "empty"}),'
            ' by which the place of a sensor failure is found'
        )
    default = inspect.signature(Pack3DDetInputs).parameters['meta_keys'].default
    for step in steps:
        if type_name(step) == 'Pack3DDetInputs':
            keys = (*step.get('meta_keys', default), *_ADDED_KEYS)
            step['meta_keys'] = tuple(dict.fromkeys(keys))
    return [*steps[:behind], *map(dict, copy.deepcopy([*failure])), *steps[behind:]]
