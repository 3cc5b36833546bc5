"""Load checkpoints without running code that they bring; say what is wrong with a bad one.

With torch >= 2.6 mmengine 0.10.7 can neither load nor resume its own checkpoints: torch then reads
plain data alone, and they hold a few more kinds of objects. Importing this module registers a
loader that reads them under torch's restricted unpickler, for all that loads a checkpoint through
mmengine: `load_from`, `resume`, `init_cfg=dict(type='Pretrained')`, `init_model`.
"""

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from ..non_finite_numbers import non_finite_numbers
from ..plain_pickle import NUMPY_STAND_INS
from ..unwrapping import unwrapped_weights

MapLocation = str | torch.device | dict[str, str] | Callable | None

_ZIP_MAGIC = b'PK\x03\x04'
_NUM_NAMES_SHOWN = 5


class CheckpointError(RuntimeError):
    """A checkpoint file cannot be used; the message names the file, the cause and a remedy."""


def load_checkpoint_safely(
    file: str | os.PathLike[str] | IO[bytes],
    map_location: MapLocation = None,
    source: str | None = None,
) -> dict:
    """Load a checkpoint that torch.save wrote, refusing any that would run code.

    Beside what torch's `weights_only=True` reads, torch >= 2.6 understands numpy arrays and
    scalars and mmengine's `ConfigDict` (as a dict) here; mmengine's logs of scalars are passed
    over. An older torch refuses files with any of these. `source` names the file in messages.

    Returns:
        What was saved, with the weights' `_metadata` and the names of a model without wrappers.

    Raises:
        CheckpointError: When there is no such file, or it needs a class or function that is not
            allowed, is truncated, changed after it was written or no checkpoint, or holds NaN.
    """
    if isinstance(file, (str, os.PathLike)):
        path = Path(file).expanduser()
        try:
            with path.open('rb') as opened:
                return load_checkpoint_safely(opened, map_location, source or str(path))
        except OSError as error:
            raise CheckpointError(
                f"checkpoint '{path}' cannot be opened: {error.strerror}. Remedy: name a file "
                "that this user may read, or leave out 'load_from'/'resume'"
            ) from error
    source = source or 'checkpoint'
    _check_archive(file, source)
    checkpoint = _load_plain_data(file, map_location, source)
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"checkpoint '{source}' holds a {type(checkpoint).__name__}, not a dict of weights. "
            "Remedy: save them with torch.save({'state_dict': model.state_dict()}, FILE)"
        )
    if isinstance(checkpoint.get('state_dict'), dict):
        checkpoint['state_dict'] = unwrapped_weights(checkpoint['state_dict'])
    else:
        checkpoint = unwrapped_weights(checkpoint)
    if isinstance(hub := checkpoint.get('message_hub'), dict):
        hub['log_scalars'] = {}  # each an _Unread
    if not_a_number := find_nan(checkpoint):
        raise CheckpointError(
            f"checkpoint '{source}' holds NaN in {shorten(not_a_number)}. Remedy: take one from "
            'before the training failed (resume without a path takes the newest good one)'
        )
    return checkpoint


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: MapLocation = None) -> dict:
    """Load a local file; see `load_checkpoint_safely`."""
    return load_checkpoint_safely(filename, map_location)


def _check_archive(file: IO[bytes], source: str) -> None:
    """Refuse a file whose content is not what was once written; torch.load verifies nothing."""
    start = file.read(len(_ZIP_MAGIC))
    if not start:
        raise _damaged(source, 'is empty')
    if start == _ZIP_MAGIC:  # since torch 1.6; before, without checksums
        try:
            with zipfile.ZipFile(file) as archive:
                # All zero where torch.serialization.set_crc32_options(False) was called.
                has_checksums = any(record.CRC for record in archive.infolist())
                changed = archive.testzip() if has_checksums else None
        except Exception as error:
            raise _damaged(source, f'is a truncated or damaged archive ({error})') from None
        if changed is not None:
            raise _damaged(source, f"is damaged: '{changed}' in it does not match its checksum")
    file.seek(0)


def _load_plain_data(file: IO[bytes], map_location: MapLocation, source: str) -> Any:
    """torch.load without its advice; errors that the file is not to blame for pass through."""
    try:
        with _stand_ins_allowed():
            return torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:
        if map_location not in (None, 'cpu'):
            file.seek(0)
            _load_plain_data(file, 'cpu', source)
            raise  # it is the device, not the file
        text = str(error)
        # In the words of torch 2.1, and of later ones.
        refused = re.search(r'(?:Unsupported class|GLOBAL) (\S+)', text)
        if refused and isinstance(error, UnpicklingError):
            path = source.partition(' (from ')[0]
            newer = '' if _has_stand_ins() else 'read it with torch >= 2.6, which knows more; '
            raise CheckpointError(
                f"checkpoint '{source}' was refused, because reading it would call {refused[1]}. "
                f'Nothing in it was run. Remedy: {newer}get the file from a source you trust; if '
                'it is one, keep its weights alone, on a machine that you can throw away: '
                'python -c "import torch; '
                f"c = torch.load('{path}', map_location='cpu', weights_only=False); "
                f"torch.save({{'state_dict': c.get('state_dict', c)}}, 'weights.pth')\""
            ) from None
        detail = text.split('WeightsUnpickler error:', 1)[-1].strip().partition('\n')[0]
        raise _damaged(
            source,
            'is truncated or damaged, or not a checkpoint that torch.save wrote '
            f'({type(error).__name__}: {detail[:300]})',
        ) from None


def _damaged(source: str, damage: str) -> CheckpointError:
    path, is_downloaded, _ = source.partition(' (from ')
    remedy = (
        f"delete '{path}', so that it is downloaded anew"
        if is_downloaded
        else 'download or copy it again, or resume from an earlier checkpoint (resume without a '
        'path takes the newest intact one)'
    )
    return CheckpointError(f"checkpoint '{source}' {damage}. Remedy: {remedy}")


class _Unread:
    """Stands for mmengine's `HistoryBuffer`, the log of a scalar: its content is dropped."""

    def __setstate__(self, state: object) -> None:
        pass


def _name_of_history_method(owner: object, name: object) -> object:
    """Stands for `builtins.getattr`, by which a `HistoryBuffer` names its own methods."""
    if owner is not _Unread or not isinstance(name, str):
        raise UnpicklingError('Unsupported global: GLOBAL builtins.getattr')
    return name


_STAND_INS: dict[str, Callable] = {
    **NUMPY_STAND_INS,
    'mmengine.logging.history_buffer.HistoryBuffer': _Unread,
    'mmengine.config.config.ConfigDict': dict,
    'builtins.getattr': _name_of_history_method,
    'builtins.bytes': lambda: b'',  # called for the data of an empty array
}


def _has_stand_ins() -> bool:
    """Whether torch's allow-list takes an object under another's name."""
    return torch.__version__ >= '2.6.0.dev0'  # the lowest of its pre-releases


@contextmanager
def _stand_ins_allowed() -> Iterator[None]:
    """Put the stand-ins on torch's allow-list, in the place of anything allowed by their names."""
    if not _has_stand_ins():  # what is plain data for torch itself can be read all the same
        yield
        return
    before: list[Any] = torch.serialization.get_safe_globals()
    allowed = {
        entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}': entry
        for entry in before
    }
    allowed |= {original: (stand_in, original) for original, stand_in in _STAND_INS.items()}
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(allowed.values()))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def find_nan(checkpoint: Mapping) -> list[str]:
    """Name the tensors of weights, optimizer and all else in a checkpoint that hold NaN.

    What a run has logged may: a metric of nothing is NaN. Infinity is not looked for: a range
    without bounds is one.
    """
    parts = {k: part for k, part in checkpoint.items() if k not in ('meta', 'message_hub')}
    weights = parts.pop('state_dict', {})
    return [name for part in (weights, parts) for name in non_finite_numbers(part, only_nan=True)]


def weights_of(checkpoint: Mapping, source: str) -> dict[str, Any]:
    """The weights in a checkpoint by name, with their `_metadata`: its 'state_dict', or all of it.

    Raises:
        CheckpointError: When there are none.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    if isinstance(weights, dict) and any(isinstance(v, Tensor) for v in weights.values()):
        return weights
    raise CheckpointError(
        f"checkpoint '{source}' has no weights under 'state_dict', only "
        f'{shorten(map(str, checkpoint)) or "nothing"}. '
        "Remedy: save them as torch.save({'state_dict': weights}, FILE)"
    )


def shorten(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    names = list(names)
    rest = len(names) - _NUM_NAMES_SHOWN
    return ', '.join(names[:_NUM_NAMES_SHOWN]) + (f' and {rest} more' if rest > 0 else '')
