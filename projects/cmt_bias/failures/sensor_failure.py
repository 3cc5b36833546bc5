"""What all sensor failures have in common."""

from abc import ABCMeta, abstractmethod

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.structures.points import BasePoints

from .sample_random import sample_generator, sample_token
from .spoiled_parts import ALL, SpoiledPart, add_spoiled

CHANGED_KEY = 'changed_by_failure'
"""Key of a sample that tells whether a failure has changed its input."""


class UnchangedInputError(RuntimeError):
    """A failure that must change its input has left it as it was."""


class SensorFailure(BaseTransform, metaclass=ABCMeta):
    """Base of the transforms that spoil a sample's input, between loading and augmentation.

    Derive from it, name in ``spoiled`` the inputs that :meth:`spoil` replaces, and register the
    class in ``mmdet3d.registry.TRANSFORMS``. A failure draws its random numbers from its seed and
    the sample alone, puts new arrays in the place of the old ones (never writes into these), and
    leaves all other entries as they are.

    Added keys: ``changed_by_failure``, whether the input differs now (a failure that leaves a
    whole data set as it was is a mistake, see ``tools/test_robustness.py``), and which sensors, or
    which part of them, give wrong data (see :mod:`.spoiled_parts`).

    Args:
        seed: Seed of the random numbers.

    Raises:
        KeyError: If the sample has none of the inputs that are to be spoiled.
        UnchangedInputError: If ``must_change`` holds and nothing has changed, although there was
            something to spoil (a point, or a pixel that is not black).
    """

    spoiled: tuple[str, ...] = ()
    must_change = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @abstractmethod
    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart | None:
        """Replace entries of the sample; ``rng`` is the sample's own.

        Returns:
            The part that is spoiled, if it is not all of the sensors.
        """

    def transform(self, results: dict) -> dict:
        """Spoil one sample and check that it has changed."""
        before = {key: results[key] for key in self.spoiled if key in results}
        if not before:
            raise KeyError(
                f'{type(self).__name__} spoils {" and ".join(self.spoiled)}, of which the sample '
                f'has none; it must come after the loading transforms'
            )
        part = self.spoil(results, sample_generator(self.seed, type(self).__name__, results))
        changed = not all(_equal(old, results[key]) for key, old in before.items())
        if self.must_change and not changed and not all(map(_is_void, before.values())):
            raise UnchangedInputError(
                f'{self!r} left {" and ".join(before)} of the sample {sample_token(results)} as '
                'they were; results with it would be those without'
            )
        results[CHANGED_KEY] = changed or results.get(CHANGED_KEY, False)
        if changed:
            add_spoiled(results, ''.join(map(_sensor_of, before)), part or ALL)
        return results

    def __repr__(self) -> str:
        settings = ', '.join(f'{name}={value!r}' for name, value in vars(self).items())
        return f'{type(self).__name__}({settings})'


def _sensor_of(key: str) -> str:
    """The sensor that an input is from; calibration counts for the cameras."""
    return 'L' if key == 'points' else 'C'


def _equal(old: object, new: object) -> bool:
    """Whether two points, arrays, or lists of arrays are the same."""
    if isinstance(old, BasePoints) and isinstance(new, BasePoints):
        return torch.equal(old.tensor, new.tensor)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_equal, old, new))
    return np.array_equal(np.asarray(old), np.asarray(new))


def _is_void(value: object) -> bool:
    """Whether there is nothing in it that could be spoiled."""
    if isinstance(value, BasePoints):
        return not bool(value.tensor.any())
    if isinstance(value, list):
        return all(map(_is_void, value))
    return not np.asarray(value).any()
