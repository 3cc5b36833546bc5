"""Compare the keys of a checkpoint with those of a model, submodule by submodule."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmdet3d.models.layers.spconv import IS_SPCONV2_AVAILABLE
from torch import Tensor, nn

from .safe_loading import CheckpointError

if IS_SPCONV2_AVAILABLE:
    from spconv.pytorch.modules import SparseModule

_SPLIT_SUBMODULE = 'pts_bbox_head'  # reported by its children, since most differences are there
_NUM_KEYS_SHOWN = 5


class OtherModelError(CheckpointError):
    """A checkpoint belongs to another model; the message lists keys that differ."""


@dataclass(frozen=True)
class ShapeMismatch:
    """A key that model and checkpoint share, with tensors of different shapes."""

    key: str
    in_model: tuple[int, ...]
    in_checkpoint: tuple[int, ...]

    def __str__(self) -> str:
        return f'{self.key} (model {self.in_model}, checkpoint {self.in_checkpoint})'


@dataclass
class SubmoduleReport:
    """Keys of one submodule.

    Attributes:
        name: Submodule, such as 'img_backbone' or 'pts_bbox_head.transformer'.
        matched: Keys that will be loaded.
        missing: Keys of the model that the checkpoint lacks.
        unexpected: Keys of the checkpoint that the model lacks.
        mismatched: Keys with tensors of different shapes.
    """

    name: str
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[ShapeMismatch] = field(default_factory=list)

    @property
    def is_foreign(self) -> bool:
        """Whether model and checkpoint both have this submodule, but less than half in common."""
        in_model = self.matched or self.missing or self.mismatched
        in_checkpoint = self.matched or self.unexpected or self.mismatched
        num_different = len(self.missing) + len(self.unexpected) + len(self.mismatched)
        return bool(in_model and in_checkpoint) and len(self.matched) < num_different

    def describe_differences(self) -> str:
        """List the first keys of each kind of difference, one kind a line."""
        kinds = (
            ('missing in the checkpoint', self.missing),
            ('unknown to the model', self.unexpected),
            ('other shape', [str(mismatch) for mismatch in self.mismatched]),
        )
        return '\n'.join(
            f'  {self.name}: {len(keys)} {kind}: {_shorten(keys)}' for kind, keys in kinds if keys
        )


@dataclass(frozen=True)
class CheckpointReport:
    """Outcome of `compare_state_dict`.

    Attributes:
        submodules: One report each, in the model's order, then those the model does not have.
    """

    submodules: tuple[SubmoduleReport, ...]

    @property
    def num_matched(self) -> int:
        """Number of keys that will be loaded."""
        return sum(len(part.matched) for part in self.submodules)

    @property
    def is_complete(self) -> bool:
        """Whether every key of the model will be loaded; the checkpoint may have more."""
        return self.num_matched > 0 and not any(
            part.missing or part.mismatched for part in self.submodules
        )

    @property
    def is_other_model(self) -> bool:
        """Whether the checkpoint was written by another model.

        That is so when no key matches, or when a submodule which both have differs in more keys
        than it shares. A checkpoint of some submodules alone (a pretrained backbone) is not meant,
        nor one with more submodules than the model has.
        """
        return self.num_matched == 0 or any(part.is_foreign for part in self.submodules)

    def format_table(self) -> str:
        """Table of the numbers of keys: a row per submodule, a row with the sums."""
        header = ('submodule', 'matched', 'missing', 'unexpected', 'other shape')
        rows = [
            (
                part.name,
                len(part.matched),
                len(part.missing),
                len(part.unexpected),
                len(part.mismatched),
            )
            for part in self.submodules
        ]
        total = ('all', *(sum(column) for column in list(zip(*rows, strict=True))[1:]))
        width = max(len(str(row[0])) for row in (header, *rows, total))
        return '\n'.join(
            f'{row[0]:<{width}}' + ''.join(f'{cell:>13}' for cell in row[1:])
            for row in (header, *rows, total)
        )

    def describe_differences(self) -> str:
        """List keys that differ, a few of each kind for each submodule; empty when none does."""
        return '\n'.join(text for part in self.submodules if (text := part.describe_differences()))

    def raise_if_other_model(self, source: str) -> None:
        """Raise when the checkpoint belongs to another model.

        Args:
            source: The checkpoint's file, for the message.

        Raises:
            OtherModelError: When `is_other_model`.
        """
        if self.is_other_model:
            raise OtherModelError(
                f"checkpoint '{source}' belongs to another model than this config builds "
                f'({self.num_matched} keys match):\n{self.describe_differences()}\n'
                'Remedy: take the config that the checkpoint was trained with, or a checkpoint of '
                'this config.'
            )


def compare_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> CheckpointReport:
    """Compare what a model needs with what a checkpoint has, without changing either.

    As when mmengine loads it, a leading 'module.' is taken off the checkpoint's keys, counters
    `num_batches_tracked` may be missing, and kernels that spconv 1 or mmcv wrote, whose axes
    mmdet3d permutes, match.

    Args:
        model: The built model.
        state_dict: The weights, usually `checkpoint['state_dict']`.

    Returns:
        The report.
    """
    metadata = getattr(state_dict, '_metadata', None) or {}
    stored = {re.sub(r'^module\.', '', key): tensor for key, tensor in state_dict.items()}
    parts: dict[str, SubmoduleReport] = {}

    def part_of(key: str) -> SubmoduleReport:
        name = _submodule_of(key)
        return parts.setdefault(name, SubmoduleReport(name))

    for key, tensor in model.state_dict().items():
        if key not in stored:
            if not key.endswith('num_batches_tracked'):
                part_of(key).missing.append(key)
            continue
        owner = key.rpartition('.')[0]
        version = metadata.get(owner, {}).get('version')
        loaded_shape = _loaded_shape(model.get_submodule(owner), stored[key], version)
        if loaded_shape == tuple(tensor.shape):
            part_of(key).matched.append(key)
        else:
            mismatch = ShapeMismatch(key, tuple(tensor.shape), tuple(stored[key].shape))
            part_of(key).mismatched.append(mismatch)
    for key in stored.keys() - model.state_dict().keys():
        part_of(key).unexpected.append(key)
    for part in parts.values():
        part.unexpected.sort()
    return CheckpointReport(tuple(parts.values()))


def _submodule_of(key: str) -> str:
    """Name of the submodule under which a key is reported."""
    names = key.split('.')
    depth = 2 if names[0] == _SPLIT_SUBMODULE and len(names) > 2 else 1
    return '.'.join(names[:depth])


def _loaded_shape(owner: nn.Module, tensor: Tensor, version: int | None) -> tuple[int, ...]:
    """Shape of a stored tensor after its module has read it.

    mmdet3d moves the last axis of a sparse convolution's tensors to the front unless the
    checkpoint says that spconv 2 wrote them.
    """
    shape = tuple(tensor.shape)
    if IS_SPCONV2_AVAILABLE and isinstance(owner, SparseModule) and version != 2:
        return shape[-1:] + shape[:-1]
    return shape


def _shorten(keys: list[str]) -> str:
    shown = ', '.join(keys[:_NUM_KEYS_SHOWN])
    rest = len(keys) - _NUM_KEYS_SHOWN
    return f'{shown} and {rest} more' if rest > 0 else shown
