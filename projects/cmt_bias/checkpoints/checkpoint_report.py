"""Compare the keys of a checkpoint with those of a model, submodule by submodule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..unwrapping import unwrapped_weights
from .safe_loading import CheckpointError, shorten
from .sparse_kernels import has_sparse_kernel, in_own_layout

_SPLIT_SUBMODULE = 'pts_bbox_head'  # reported by its children, since most differences are there


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
        shared = len(self.matched) + len(self.mismatched)
        in_model, in_checkpoint = shared or self.missing, shared or self.unexpected
        num_different = len(self.missing) + len(self.unexpected)
        return bool(in_model and in_checkpoint) and shared < num_different

    def describe_differences(self) -> str:
        """List the first keys of each kind of difference, one kind a line."""
        kinds = (
            ('missing in the checkpoint', self.missing),
            ('unknown to the model', self.unexpected),
            ('other shape', [str(mismatch) for mismatch in self.mismatched]),
        )
        return '\n'.join(
            f'  {self.name}: {len(keys)} {kind}: {shorten(keys)}' for kind, keys in kinds if keys
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

        That is so when no key matches, or when a submodule of both has more keys of one of them
        than of both. A checkpoint of some submodules alone (a pretrained backbone) is not meant,
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

    @property
    def mismatched(self) -> list[ShapeMismatch]:
        """Keys with tensors of different shapes, of all submodules."""
        return [mismatch for part in self.submodules for mismatch in part.mismatched]

    def raise_if_other_model(self, source: str) -> None:
        """Raise when the checkpoint belongs to another model, or to one of another size.

        Args:
            source: The checkpoint's file, for the message.

        Raises:
            OtherModelError: When `is_other_model`, or when a shape differs.
        """
        if self.is_other_model:
            raise OtherModelError(
                f"checkpoint '{source}' belongs to another model than this config builds "
                f'({self.num_matched} keys match):\n{self.describe_differences()}\n'
                'Remedy: take the config that the checkpoint was trained with, or a checkpoint of '
                'this config.'
            )
        if self.mismatched:
            parts = self._parts_of_another_size()
            listed = '\n'.join(f'  {mismatch}' for mismatch in self.mismatched)
            raise OtherModelError(
                f"checkpoint '{source}' has parts of another size than this config's model; the "
                f'other {self.num_matched} keys match:\n{listed}\n'
                'Remedy: set the sizes in the config to those of the checkpoint, or name the '
                f'parts that are to start from their initial values: load_from_skip={parts}, on '
                f'the command line --cfg-options "load_from_skip={parts}"'
            )

    def _parts_of_another_size(self) -> list[str]:
        """Modules none of whose weights match, and single keys of others."""
        matched = [
            key
            for part in self.submodules
            for key in part.matched
            if not key.endswith('num_batches_tracked')
        ]
        parts: dict[str, None] = {}
        for mismatch in self.mismatched:
            owner = mismatch.key.rpartition('.')[0]
            is_whole = owner and not any(is_named(key, [owner]) for key in matched)
            parts[owner if is_whole else mismatch.key] = None
        return list(parts)


def compare_state_dict(
    model: nn.Module, state_dict: Mapping[str, Any], skipped: Sequence[str] = ()
) -> CheckpointReport:
    """Compare what a model needs with what a checkpoint has, without changing either.

    As when it is loaded, the names of wrappers are taken off the checkpoint's keys, counters
    `num_batches_tracked` may be missing, and kernels of sparse convolutions may have the layout of
    any library.

    Args:
        model: The built model, without wrappers.
        state_dict: The weights, usually `checkpoint['state_dict']`.
        skipped: Parts of the model, named by their keys or what these begin with, which are not
            loaded; they are not in the report.

    Returns:
        The report.

    Raises:
        CheckpointError: If the layout of a sparse convolution's kernel cannot be told.
    """
    stored = unwrapped_weights(state_dict)
    metadata = getattr(stored, '_metadata', None) or {}
    parts: dict[str, SubmoduleReport] = {}

    def part_of(key: str) -> SubmoduleReport:
        name = _submodule_of(key)
        return parts.setdefault(name, SubmoduleReport(name))

    own = model.state_dict()
    for key, tensor in own.items():
        if is_named(key, skipped):
            continue
        if key not in stored:
            if not key.endswith('num_batches_tracked'):
                part_of(key).missing.append(key)
            continue
        shape, wanted = tuple(getattr(stored[key], 'shape', ())), tuple(tensor.shape)
        owner = key.rpartition('.')[0]
        if len(shape) > 2 and has_sparse_kernel(model.get_submodule(owner)):
            version = metadata.get(owner, {}).get('version')
            shape = tuple(in_own_layout(stored[key], tensor.shape, version, key).shape)
        if shape == wanted and isinstance(stored[key], Tensor):
            part_of(key).matched.append(key)
        else:
            part_of(key).mismatched.append(ShapeMismatch(key, wanted, shape))
    for key in sorted(stored.keys() - own.keys()):
        if not is_named(key, skipped):
            part_of(key).unexpected.append(key)
    return CheckpointReport(tuple(parts.values()))


def fit_weights(
    model: nn.Module, weights: dict[str, Any], source: str, skipped: Sequence[str] = ()
) -> None:
    """Make sure that all of a checkpoint's weights that are to be loaded fit the model.

    Args:
        model: The model, without wrappers.
        weights: The checkpoint's; those that are skipped are taken out.
        source: The checkpoint's file, for messages.
        skipped: The config's `load_from_skip`: parts of the model that keep their initial values,
            such as 'pts_bbox_head.reference_points'.

    Raises:
        OtherModelError: If the checkpoint is of another model, or has parts of another size which
            are not skipped.
        CheckpointError: If the model has no part that is to be skipped.
    """
    unknown = [
        part for part in skipped if not any(is_named(k, [part]) for k in model.state_dict())
    ]
    if unknown:
        raise CheckpointError(
            f'load_from_skip names {unknown}, but the model has no such parts. Remedy: name keys '
            "of its state dict, or what these begin with up to a '.'"
        )
    compare_state_dict(model, weights, skipped).raise_if_other_model(source)
    for key in [key for key in weights if is_named(key, skipped)]:
        del weights[key]


def is_named(key: str, parts: Sequence[str]) -> bool:
    """Whether a key belongs to one of the parts."""
    return any(key == part or key.startswith(f'{part}.') for part in parts)


def _submodule_of(key: str) -> str:
    """Name of the submodule under which a key is reported."""
    names = key.split('.')
    depth = 2 if names[0] == _SPLIT_SUBMODULE and len(names) > 2 else 1
    return '.'.join(names[:depth])
