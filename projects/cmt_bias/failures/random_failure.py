"""Training under sensor failures."""

import fnmatch
import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.registry import HOOKS, TRANSFORMS
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..datasets.nuscenes_dataset import transforms_with
from ..spoiled_parts import add_spoiled
from .catalog import Failure, all_failures
from .sensor_failure import sample_generator


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
