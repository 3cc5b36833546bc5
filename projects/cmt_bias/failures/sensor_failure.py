"""What all sensor failures have in common."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.structures.points import BasePoints

from ..spoiled_parts import SpoiledPart, add_spoiled

CHANGED_KEY = 'changed_by_failure'
"""Key of a sample that tells whether a failure has changed its input."""

SEVERITIES = (1, 2, 3)
"""Three levels, as in MultiCorrupt (Beemelmanns et al., 2024); their strengths are our own."""


def setting(default: Any, rule: str, holds: Callable[[Any], bool]) -> Any:
    """A setting of a failure: its default, and the rule that "must" hold for its value."""
    return field(default=default, metadata=dict(rule=rule, holds=holds))


@dataclass(eq=False)
class SensorFailure(BaseTransform):
    """Base of the transforms that spoil a sample's input, between loading and augmentation.

    Derive from it, as a dataclass if it has settings; name in ``spoiled`` the inputs that
    :meth:`spoil` replaces; and register the class in ``mmdet3d.registry.TRANSFORMS``. A failure
    draws its random numbers from its seed and the sample alone, puts new arrays in the place of
    the old ones (never writes into these), and leaves all other entries as they are.

    Added keys: ``changed_by_failure``, whether the input differs now (a failure that leaves a
    whole data set as it was is a mistake, see ``tools/test_robustness.py``), and what
    :mod:`cmt_bias.spoiled_parts` says of the sensors that give wrong data.

    A ValueError is raised if a :func:`setting` breaks its rule, a KeyError if the sample has none
    of the inputs that are to be spoiled.
    """

    spoiled: ClassVar[tuple[str, ...]] = ()
    _: KW_ONLY
    seed: int = 0

    def __post_init__(self) -> None:
        for declared in fields(self):
            if 'rule' in declared.metadata:
                rule, holds = declared.metadata['rule'], declared.metadata['holds']
                self.check(declared.name, holds(getattr(self, declared.name)), rule)

    def check(self, name: str, holds: bool, rule: str) -> None:
        """Raise the error that names class, setting and the rule that it breaks, if it does."""
        if not holds:
            value = getattr(self, name)
            raise ValueError(f'{type(self).__name__}: {name}={value} must {rule}')

    @abstractmethod
    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart | None:
        """Replace entries of the sample; return the part that is spoiled, if it is not all."""

    def transform(self, results: dict) -> dict:
        """Spoil one sample and note whether it has changed."""
        name = type(self).__name__
        before = {key: results[key] for key in self.spoiled if key in results}
        if not before:
            raise KeyError(
                f'{name} spoils {" and ".join(self.spoiled)}, of which the sample has none; it '
                'must come after the loading transforms'
            )
        part = self.spoil(results, sample_generator(self.seed, name, results))
        changed = any(_differ(old, results[key]) for key, old in before.items())
        results[CHANGED_KEY] = changed or results.get(CHANGED_KEY, False)
        if changed:  # calibration counts for the cameras
            add_spoiled(results, ''.join('L' if key == 'points' else 'C' for key in before), part)
        return results


@dataclass(eq=False)
class Degradation(SensorFailure):
    """Base of the failures of working sensors: ``severity`` 1 to 3 is which of ``levels``."""

    levels: ClassVar[tuple[Any, ...]] = ()
    severity: int = setting(2, f'be one of {SEVERITIES}', SEVERITIES.__contains__)

    @property
    def level(self) -> Any:
        """How bad it is, in the terms of ``levels``."""
        return self.levels[self.severity - 1]


def _differ(old: Any, new: Any) -> bool:
    """Whether two clouds, or the images or matrices of some cameras, differ."""
    if isinstance(old, BasePoints):
        return not np.array_equal(old.numpy(), new.numpy())
    return len(old) != len(new) or not all(map(np.array_equal, old, new))


def sample_token(results: Mapping) -> str:
    """What names a sample: nuScenes' token, else its number or file; or a KeyError."""
    for key in ('token', 'sample_idx', 'lidar_path'):
        if results.get(key) is not None:
            return str(results[key])
    raise KeyError(
        'a sample has none of token, sample_idx, lidar_path, by which a sensor failure draws its '
        'random numbers; make the info files anew with tools/create_data.py'
    )


def sample_generator(seed: int, purpose: str, results: Mapping) -> np.random.Generator:
    """Random numbers of one sample and purpose, whatever the workers and numpy's global state."""
    digest = hashlib.sha256(f'{seed}/{purpose}/{sample_token(results)}'.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, 'big'))
