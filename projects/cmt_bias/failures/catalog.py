"""The failures that tests and trainings draw from, and how one comes into a pipeline."""

import copy
import fnmatch
import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import Pack3DDetInputs
from mmdet3d.registry import HOOKS, TRANSFORMS
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..config_type import type_name
from ..datasets.nuscenes_dataset import transforms_with
from ..spoiled_parts import (
    SPOILED_REGIONS_KEY,
    SPOILED_SENSORS_KEY,
    SPOILED_VIEWS_KEY,
    add_spoiled,
)
from .sensor_failure import CHANGED_KEY, SEVERITIES, sample_generator

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


@TRANSFORMS.register_module()
class RandomFailure(BaseTransform):
    """Spoil a training sample by a failure drawn from the catalogue, or leave it as it is.

    Belongs behind loading and pasting, in front of the augmentation. What it draws depends on the
    seed, the epoch and the sample alone: not on the number of workers or processes, nor on where
    an interrupted run went on. The epoch comes from a :class:`FailureEpochHook`.

    Added keys: ``failure``, the name of what was drawn, '' for none, and what the failure itself
    adds; ``spoiled_sensors`` is '' in a healthy sample.

    Args:
        failures: Relative weights by name of :func:`all_failures`. A wildcard stands for all that
            fit it, which share its weight; ``night_3`` is a degradation of severity 3.
        probability: Chance of a sample to be spoiled.

    Raises:
        ValueError: If a name, a weight or the probability has no meaning.
    """

    def __init__(
        self, failures: Mapping[str, float], probability: float = 0.5, seed: int = 0
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f'RandomFailure: probability={probability} must lie within [0, 1]')
        self.probability = probability
        self.seed = seed
        self.failures = _weighted_failures(failures)
        # Workers that live on between epochs see it change.
        self.epoch = torch.full((), -1, dtype=torch.int64).share_memory_()

    def transform(self, results: dict) -> dict:
        """Spoil one sample, or not."""
        epoch = int(self.epoch)
        if epoch < 0:
            raise RuntimeError(
                "RandomFailure needs the epoch: add dict(type='FailureEpochHook') to custom_hooks"
            )
        rng = sample_generator(self.seed, f'RandomFailure/{epoch}', results)
        failure = self._draw(results, rng)
        results['failure'] = failure.name if failure else ''
        add_spoiled(results, '')
        digest = hashlib.sha256(f'{self.seed}/{epoch}'.encode()).digest()
        for config in failure.seeded(int.from_bytes(digest[:8], 'big')) if failure else ():
            results = TRANSFORMS.build(config)(results)
        return results

    def _draw(self, results: Mapping, rng: np.random.Generator) -> Failure | None:
        """A failure of the sensors that the sample has."""
        sensors = ''.join(s for s, key in (('L', 'points'), ('C', 'img')) if key in results)
        fitting = [(f, weight) for f, weight in self.failures if f.applies_to(sensors)]
        if rng.random() >= self.probability or not fitting:
            return None
        weights = np.array([weight for _, weight in fitting])
        return fitting[rng.choice(len(fitting), p=weights / weights.sum())][0]


@HOOKS.register_module()
class FailureEpochHook(Hook):
    """Tell every :class:`RandomFailure` of the training data, however nested, which epoch it is.

    A training that counts iterations is one epoch.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the new epoch, before the data loader begins it."""
        for transform in transforms_with(runner.train_dataloader.dataset, 'epoch'):
            if isinstance(transform, RandomFailure):
                transform.epoch.fill_(runner.epoch)

    before_train = before_train_epoch  # for hooks that look at the data before the first epoch


def _weighted_failures(weights: Mapping[str, float]) -> list[tuple[Failure, float]]:
    """The failures that names and wildcards stand for, each with its weight."""
    known = {failure.name: failure for failure in all_failures() if failure.transforms}
    weighted: dict[str, float] = {}
    for pattern, weight in weights.items():
        what, names = f"RandomFailure: failures['{pattern}']", fnmatch.filter(known, pattern)
        if not names:
            raise ValueError(f'{what} fits none of {", ".join(known)}')
        if weight <= 0:
            raise ValueError(f'{what}={weight} must be positive')
        for name in names:
            weighted[name] = weighted.get(name, 0.0) + weight / len(names)
    return [(known[name], weight) for name, weight in weighted.items()]
