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


@dataclass
class SubmoduleReport:
    """Keys of one submodule.

    Attributes:
        name: Submodule, such as 'img_backbone' or 'pts_bbox_head.transformer'.
        matched: Keys that will be loaded.
        missing: Keys of the model that the checkpoint lacks.
        unexpected: Keys of the checkpoint that the model lacks.
        mismatched: Keys with tensors of different shapes, and both shapes.
    """

    name: str
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every key of the model will be loaded; the checkpoint may have more."""
        return not (self.missing or self.mismatched)

    @property
    def is_foreign(self) -> bool:
        """Whether model and checkpoint both have this submodule, but less than half in common."""
        shared = len(self.matched) + len(self.mismatched)
        in_both = shared or (self.missing and self.unexpected)
        return bool(in_both) and shared < len(self.missing) + len(self.unexpected)

    def describe(self) -> str:
        """The number of keys that match and, a line each, the kinds of those that do not."""
        kinds = {
            'missing in the checkpoint': self.missing,
            'unknown to the model': self.unexpected,
            'of other shape': [f'{key} {shapes}' for key, shapes in self.mismatched.items()],
        }
        lines = [f'{self.name}: {len(self.matched)} matched']
        lines += [f'  {len(keys)} {kind}: {shorten(keys)}' for kind, keys in kinds.items() if keys]
        return '\n'.join(lines)


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
        return self.num_matched > 0 and all(part.is_complete for part in self.submodules)

    @property
    def is_other_model(self) -> bool:
        """Whether the checkpoint was written by another model.

        That is so when no key matches, or when a submodule of both has more keys of one of them
        than of both. A checkpoint of some submodules alone (a pretrained backbone) is not meant,
        nor one with more submodules than the model has.
        """
        return self.num_matched == 0 or any(part.is_foreign for part in self.submodules)

    def describe(self, only_differences: bool = False) -> str:
        """Numbers of keys of each submodule, and a few of the keys that differ."""
        return '\n'.join(
            part.describe()
            for part in self.submodules
            if not (only_differences and part.is_complete and not part.unexpected)
        )

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
                f'({self.num_matched} keys match):\n{self.describe(only_differences=True)}\n'
                'Remedy: take the config that the checkpoint was trained with, or a checkpoint of '
                'this config.'
            )
        mismatched = {
            k: shapes for part in self.submodules for k, shapes in part.mismatched.items()
        }
        if not mismatched:
            return
        matched = [
            key
            for part in self.submodules
            for key in part.matched
            if not key.endswith('num_batches_tracked')
        ]
        # Modules none of whose weights match, and single keys of others.
        parts: dict[str, None] = {}
        for key in mismatched:
            owner = key.rpartition('.')[0]
            is_whole = owner and not any(_is_part(other, [owner]) for other in matched)
            parts[owner if is_whole else key] = None
        listed = '\n'.join(f'  {key} {shapes}' for key, shapes in mismatched.items())
        raise OtherModelError(
            f"checkpoint '{source}' has parts of another size than this config's model; the "
            f'other {self.num_matched} keys match:\n{listed}\n'
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

    Returns:
        The report.

    Raises:
        CheckpointError: If the layout of a sparse convolution's kernel cannot be told.
    """
    stored = unwrapped_weights(state_dict)
    metadata = getattr(stored, '_metadata', None) or {}
    own = model.state_dict()
    parts: dict[str, SubmoduleReport] = {}
    for key in [*own, *sorted(stored.keys() - own.keys())]:
        if _is_part(key, skipped):
            continue
        names = key.split('.')
        name = '.'.join(names[: 2 if names[0] == _SPLIT_SUBMODULE and len(names) > 2 else 1])
        part = parts.setdefault(name, SubmoduleReport(name))
        if key not in own:
            part.unexpected.append(key)
            continue
        if key not in stored:
            if not key.endswith('num_batches_tracked'):
                part.missing.append(key)
            continue
        found, wanted = stored[key], own[key].shape
        owner = key.rpartition('.')[0]
        is_tensor = isinstance(found, Tensor)
        if is_tensor and found.dim() > 2 and has_sparse_kernel(model.get_submodule(owner)):
            version = metadata.get(owner, {}).get('version')
            found = in_own_layout(found, wanted, version, key)
        if is_tensor and found.shape == wanted:
            part.matched.append(key)
        else:
            shape = tuple(getattr(found, 'shape', ()))
            part.mismatched[key] = f'(model {tuple(wanted)}, checkpoint {shape})'
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
        part for part in skipped if not any(_is_part(k, [part]) for k in model.state_dict())
    ]
    if unknown:
        raise CheckpointError(
            f'load_from_skip names {unknown}, but the model has no such parts. Remedy: name keys '
            "of its state dict, or what these begin with up to a '.'"
        )
    compare_state_dict(model, weights, skipped).raise_if_other_model(source)
    for key in [key for key in weights if _is_part(key, skipped)]:
        del weights[key]


def _is_part(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f'{part}.') for part in parts)
