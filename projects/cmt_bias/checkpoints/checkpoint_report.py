"""Compare the keys of a checkpoint with those of a model, submodule by submodule."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..unwrapping import unwrapped_weights
from .safe_loading import CheckpointError, shorten
from .sparse_kernels import SparseModule, kernels_in_own_layout

_KINDS = ('matched', 'missing in the checkpoint', 'unknown to the model', 'of other shape')
_SPLIT_SUBMODULE = 'pts_bbox_head'  # reported by its children, since most differences are there


@dataclass
class CheckpointReport:
    """Keys that will be loaded, and those that differ; `mismatched` ones with both shapes."""

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
        """Whether no key matches, or some submodule of both has more keys of one than of both.

        A checkpoint of some submodules alone (a pretrained backbone) is not meant, nor one with
        more submodules than the model has.
        """
        for matched, missing, unexpected, mismatched in self._by_part().values():
            shared, single = len(matched) + len(mismatched), len(missing) + len(unexpected)
            if shared < single and (shared or (missing and unexpected)):
                return True
        return not self.matched

    def describe(self) -> str:
        """How many keys of each submodule match, and a few of those that do not."""
        lines = []
        for part, kinds in self._by_part().items():
            lines.append(f'{part}:')
            for kind, keys in zip(_KINDS, kinds, strict=True):
                examples = '' if kind == 'matched' else f': {shorten(keys)}'
                lines += [f'  {len(keys)} {kind}{examples}'] if keys else []
        return '\n'.join(lines)

    def _by_part(self) -> dict[str, tuple[list[str], ...]]:
        """The keys of each submodule that is reported, in the order of the kinds."""
        mismatched = [f'{key} {shapes}' for key, shapes in self.mismatched.items()]
        parts: defaultdict[str, tuple[list[str], ...]] = defaultdict(lambda: ([], [], [], []))
        for kind, keys in enumerate((self.matched, self.missing, self.unexpected, mismatched)):
            for key in keys:
                names = key.partition(' ')[0].split('.')  # without shapes
                is_split = names[0] == _SPLIT_SUBMODULE and len(names) > 2
                parts['.'.join(names[: 2 if is_split else 1])][kind].append(key)
        return parts

    def raise_if_other_model(self, source: str) -> None:
        """Raise CheckpointError when the checkpoint is another model's or has other shapes."""
        if self.is_other_model:
            raise CheckpointError(
                f"checkpoint '{source}' belongs to another model than this config builds "
                f'({len(self.matched)} keys match):\n{self.describe()}\n'
                'Remedy: take the config that the checkpoint was trained with, or a checkpoint of '
                'this config.'
            )
        if self.mismatched:
            listed = '\n'.join(f'  {key} {shapes}' for key, shapes in self.mismatched.items())
            raise CheckpointError(
                f"checkpoint '{source}' has parts of another size than this config's model; the "
                f'other {len(self.matched)} keys match:\n{listed}\n'
                'Remedy: set the sizes in the config to those of the checkpoint, or name the keys '
                'or parts that are to start from their initial values, on the command line as '
                f'--cfg-options "load_from_skip={list(self.mismatched)}"'
            )


def compare_state_dict(
    model: nn.Module, state_dict: Mapping[str, Any], skipped: Sequence[str] = ()
) -> CheckpointReport:
    """Compare what a model without wrappers needs with what a checkpoint has.

    As when it is loaded, the names of wrappers are taken off the checkpoint's keys, counters
    `num_batches_tracked` may be missing, and kernels of sparse convolutions may have any layout
    (CheckpointError if it cannot be told). Keys are left out that are `skipped`, or begin with
    such a name and a '.'.
    """
    weights = unwrapped_weights(state_dict)
    versions = getattr(weights, '_metadata', None) or {}
    stored, own = (
        {key: value for key, value in values.items() if not is_named(key, skipped)}
        for values in (weights, model.state_dict())
    )
    for name, module in model.named_modules():
        if isinstance(module, SparseModule):
            version = versions.get(name, {}).get('version')
            stored |= kernels_in_own_layout(module, name, stored, version)
    report = CheckpointReport(unexpected=sorted(stored.keys() - own.keys()))
    for key, wanted in own.items():
        found = stored.get(key)
        if isinstance(found, Tensor) and found.shape == wanted.shape:
            report.matched.append(key)
        elif key in stored:
            shape = tuple(getattr(found, 'shape', ()))
            report.mismatched[key] = f'(model {tuple(wanted.shape)}, checkpoint {shape})'
        elif not key.endswith('num_batches_tracked'):
            report.missing.append(key)
    return report


def fit_weights(
    model: nn.Module,
    weights: dict[str, Any],
    source: str,
    skipped: Sequence[str] = (),
    needs_all: bool = False,
) -> None:
    """Make sure that the weights of a checkpoint file fit a model; log which will be loaded.

    Parts of the model that are `skipped` (the config's `load_from_skip`) keep their initial
    values: they are taken out of the weights. `needs_all`: none may be missing, as for a resume.

    Raises:
        CheckpointError: If the checkpoint is of another model, has parts of another size which are
            not skipped, or lacks parts that it must have; or the model has no part to be skipped.
    """
    keys = list(model.state_dict())
    if unknown := [part for part in skipped if not any(is_named(key, [part]) for key in keys)]:
        raise CheckpointError(
            f'load_from_skip names {unknown}, but the model has no such parts. Remedy: name keys '
            "of its state dict, or what these begin with up to a '.'"
        )
    report = compare_state_dict(model, weights, skipped)
    report.raise_if_other_model(source)
    if needs_all and not report.is_complete:
        raise CheckpointError(
            f"the checkpoint '{source}' lacks parts of the model:\n{report.describe()}\n"
            'Remedy: resume with the config that wrote the checkpoint'
        )
    what = f"Keys of '{source}' that are loaded into the model:\n{report.describe()}"
    MMLogger.get_current_instance().info(what)
    for key in [key for key in weights if is_named(key, skipped)]:
        del weights[key]


def is_named(key: str, parts: Sequence[str]) -> bool:
    """Whether a key belongs to one of the parts."""
    return any(key == part or key.startswith(f'{part}.') for part in parts)
