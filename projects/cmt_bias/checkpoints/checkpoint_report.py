"""Compare the keys of a checkpoint with those of a model, submodule by submodule."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..unwrapping import unwrapped_weights
from .safe_loading import CheckpointError, shorten
from .sparse_kernels import has_sparse_kernel, in_own_layout

_SPLIT_SUBMODULE = 'pts_bbox_head'  # reported by its children, since most differences are there


class OtherModelError(CheckpointError):
    """A checkpoint belongs to another model; the message lists keys that differ."""


@dataclass
class CheckpointReport:
    """Outcome of :func:`compare_state_dict`.

    Attributes:
        matched: Keys that will be loaded.
        missing: Keys of the model that the checkpoint lacks.
        unexpected: Keys of the checkpoint that the model lacks.
        mismatched: Keys with tensors of different shapes, and both shapes.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every key of the model will be loaded; the checkpoint may have more."""
        return bool(self.matched) and not (self.missing or self.mismatched)

    @property
    def is_other_model(self) -> bool:
        """Whether the checkpoint was written by another model.

        That is so when no key matches, or when a submodule of both has more keys of one of them
        than of both. A checkpoint of some submodules alone (a pretrained backbone) is not meant,
        nor one with more submodules than the model has.
        """
        shared = _count_by_part([*self.matched, *self.mismatched])
        missing, unexpected = _count_by_part(self.missing), _count_by_part(self.unexpected)
        return not self.matched or any(
            (part in shared or (part in missing and part in unexpected))
            and shared[part] < missing[part] + unexpected[part]
            for part in {**missing, **unexpected}
        )

    def describe(self) -> str:
        """How many keys of each submodule match, and a few of those that do not."""
        kinds = {
            'matched': self.matched,
            'missing in the checkpoint': self.missing,
            'unknown to the model': self.unexpected,
            'of other shape': self.mismatched,
        }
        parts: dict[str, list[str]] = {}
        for kind, keys in kinds.items():
            for part, number in _count_by_part(keys).items():
                own = [key for key in keys if _part_of(key) == part]
                shown = [f'{key} {self.mismatched.get(key, "")}'.strip() for key in own]
                examples = '' if kind == 'matched' else f': {shorten(shown)}'
                parts.setdefault(part, [f'{part}:']).append(f'  {number} {kind}{examples}')
        return '\n'.join(line for lines in parts.values() for line in lines)

    def raise_if_other_model(self, source: str) -> None:
        """Raise OtherModelError when the checkpoint is another model's or has other shapes."""
        if self.is_other_model:
            raise OtherModelError(
                f"checkpoint '{source}' belongs to another model than this config builds "
                f'({len(self.matched)} keys match):\n{self.describe()}\n'
                'Remedy: take the config that the checkpoint was trained with, or a checkpoint of '
                'this config.'
            )
        if not self.mismatched:
            return
        # Modules none of whose weights match, and single keys of others.
        matched = [key for key in self.matched if not key.endswith('num_batches_tracked')]
        parts: dict[str, None] = {}
        for key in self.mismatched:
            owner = key.rpartition('.')[0]
            is_whole = owner and not any(is_named(other, [owner]) for other in matched)
            parts[owner if is_whole else key] = None
        listed = '\n'.join(f'  {key} {shapes}' for key, shapes in self.mismatched.items())
        raise OtherModelError(
            f"checkpoint '{source}' has parts of another size than this config's model; the "
            f'other {len(self.matched)} keys match:\n{listed}\n'
            'Remedy: set the sizes in the config to those of the checkpoint, or name the '
            f'parts that are to start from their initial values: load_from_skip={list(parts)}, on '
            f'the command line --cfg-options "load_from_skip={list(parts)}"'
        )


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

    Raises:
        CheckpointError: If the layout of a sparse convolution's kernel cannot be told.
    """
    stored, own = unwrapped_weights(state_dict), model.state_dict()
    metadata = getattr(stored, '_metadata', None) or {}
    report = CheckpointReport()
    report.unexpected += sorted(k for k in stored.keys() - own.keys() if not is_named(k, skipped))
    for key, wanted in own.items():
        if is_named(key, skipped):
            continue
        if key not in stored:
            if not key.endswith('num_batches_tracked'):
                report.missing.append(key)
            continue
        found, owner = stored[key], key.rpartition('.')[0]
        is_tensor = isinstance(found, Tensor)
        if is_tensor and found.dim() > 2 and has_sparse_kernel(model.get_submodule(owner)):
            version = metadata.get(owner, {}).get('version')
            found = in_own_layout(found, wanted.shape, version, key)
        if is_tensor and found.shape == wanted.shape:
            report.matched.append(key)
        else:
            shape = tuple(getattr(found, 'shape', ()))
            report.mismatched[key] = f'(model {tuple(wanted.shape)}, checkpoint {shape})'
    return report


def fit_weights(
    model: nn.Module, weights: dict[str, Any], source: str, skipped: Sequence[str] = ()
) -> None:
    """Make sure that all of a checkpoint's weights that are to be loaded fit the model.

    Args:
        model: The model, without wrappers.
        weights: The checkpoint's; those that are skipped are taken out.
        source: The checkpoint's file.
        skipped: The config's `load_from_skip`: parts of the model that keep their initial values.

    Raises:
        OtherModelError: If the checkpoint is of another model, or has parts of another size which
            are not skipped.
        CheckpointError: If the model has no part that is to be skipped.
    """
    keys = list(model.state_dict())
    unknown = [part for part in skipped if not any(is_named(key, [part]) for key in keys)]
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


def _part_of(key: str) -> str:
    """Name of the submodule under which a key is reported."""
    names = key.split('.')
    return '.'.join(names[: 2 if names[0] == _SPLIT_SUBMODULE and len(names) > 2 else 1])


def _count_by_part(keys: Iterable[str]) -> Counter[str]:
    return Counter(map(_part_of, keys))
