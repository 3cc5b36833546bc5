"""Compare the keys of a checkpoint with those of a model, submodule by submodule."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..unwrapping import unwrapped_weights
from .safe_loading import CheckpointError, shorten
from .sparse_kernels import SparseModule, in_own_layout

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
        """Whether the checkpoint was written by another model.

        That is so when no key matches, or when a submodule of both has more keys of one of them
        than of both. A checkpoint of some submodules alone (a pretrained backbone) is not meant,
        nor one with more submodules than the model has.
        """
        shared = _by_part([*self.matched, *self.mismatched])
        missing, unexpected = _by_part(self.missing), _by_part(self.unexpected)
        return not self.matched or any(
            (part in shared or (part in missing and part in unexpected))
            and len(shared[part]) < len(missing[part]) + len(unexpected[part])
            for part in {*missing, *unexpected}
        )

    def describe(self) -> str:
        """How many keys of each submodule match, and a few of those that do not."""
        sizes = [f'{key} {shapes}' for key, shapes in self.mismatched.items()]
        kinds = {
            'matched': self.matched,
            'missing in the checkpoint': self.missing,
            'unknown to the model': self.unexpected,
            'of other shape': sizes,
        }
        parts: dict[str, list[str]] = {}
        for kind, keys in kinds.items():
            for part, own in _by_part(keys).items():
                examples = '' if kind == 'matched' else f': {shorten(own)}'
                parts.setdefault(part, [f'{part}:']).append(f'  {len(own)} {kind}{examples}')
        return '\n'.join(line for lines in parts.values() for line in lines)

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
    `num_batches_tracked` may be missing, and kernels of sparse convolutions may have the layout of
    any library. Keys that are `skipped`, or begin with such a name and a '.', are left out.

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
        is_kernel = isinstance(found, Tensor) and found.dim() > 2
        if is_kernel and isinstance(model.get_submodule(owner), SparseModule):
            version = metadata.get(owner, {}).get('version')
            found = in_own_layout(found, wanted.shape, version, key)
        if isinstance(found, Tensor) and found.shape == wanted.shape:
            report.matched.append(key)
        else:
            shape = tuple(getattr(found, 'shape', ()))
            report.mismatched[key] = f'(model {tuple(wanted.shape)}, checkpoint {shape})'
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
    unknown = [part for part in skipped if not any(is_named(key, [part]) for key in keys)]
    if unknown:
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


def _by_part(keys: Iterable[str]) -> defaultdict[str, list[str]]:
    """The keys of each submodule that is reported."""
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for key in keys:
        names = key.partition(' ')[0].split('.')  # without shapes
        is_split = names[0] == _SPLIT_SUBMODULE and len(names) > 2
        parts['.'.join(names[: 2 if is_split else 1])].append(key)
    return parts
