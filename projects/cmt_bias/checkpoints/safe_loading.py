"""Read checkpoints, wherever they are, without running code that they bring; say what is wrong.

With torch >= 2.6 mmengine 0.10.7 can neither load nor resume its own checkpoints: torch then reads
plain data alone, and they hold a few more kinds of objects. The loaders of this module replace
mmengine's, for `load_from`, `resume`, `init_cfg=dict(type='Pretrained')` and `init_model`. They
keep the names, out of which mmengine cuts its log message.
"""

import difflib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any
from urllib.parse import urlparse

import mmengine
import torch
from mmengine import fileio
from mmengine.dist import barrier, is_main_process
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as hub
from torch import Tensor

from ..non_finite_numbers import non_finite_numbers
from ..plain_pickle import NUMPY_STAND_INS
from ..unwrapping import unwrapped_weights

MapLocation = str | torch.device | dict[str, str] | Callable | None


class CheckpointError(RuntimeError):
    """A checkpoint file cannot be used; the message names the file, the cause and a remedy."""


def load_checkpoint_safely(
    file: str | os.PathLike[str] | IO[bytes],
    map_location: MapLocation = None,
    source: str | None = None,
) -> dict:
    """Load a dict that torch.save wrote, refusing any that would run code.

    Beside what torch's `weights_only=True` reads, torch >= 2.6 understands numpy arrays and
    scalars and mmengine's `ConfigDict` (as a dict) here; mmengine's logs of scalars are passed
    over. An older torch refuses files with any of these. `source` names the file in messages.
    The weights have their `_metadata` and the names of a model without wrappers.

    Raises:
        CheckpointError: When there is no such file, or it needs a class or function that is not
            allowed, is truncated, changed after it was written or no checkpoint, or holds NaN.
    """
    if isinstance(file, (str, os.PathLike)):
        path = Path(file).expanduser()
        try:
            opened = path.open('rb')
        except OSError as error:
            raise CheckpointError(
                f"checkpoint '{path}' cannot be opened: {error.strerror}. Remedy: name a file "
                "that this user may read, or leave out 'load_from'/'resume'"
            ) from error
        with opened:
            return load_checkpoint_safely(opened, map_location, source or str(path))
    source = source or 'checkpoint'
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
    if isinstance(message_hub := checkpoint.get('message_hub'), dict):
        message_hub['log_scalars'] = {}  # each an _Unread
    if not_a_number := find_nan(checkpoint):
        raise CheckpointError(
            f"checkpoint '{source}' holds NaN in {shorten(not_a_number)}. Remedy: take one from "
            'before the training failed (resume without a path takes the newest good one)'
        )
    return checkpoint


def _load_plain_data(file: IO[bytes], map_location: MapLocation, source: str) -> Any:
    """torch.load without its advice; errors that the file is not to blame for pass through."""
    try:
        _verify_checksums(file)
        with _stand_ins_allowed():
            return torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:
        if map_location not in (None, 'cpu'):
            file.seek(0)
            _load_plain_data(file, 'cpu', source)
            raise  # it is the device, not the file
        path, is_downloaded, _ = source.partition(' (from ')
        # In the words of torch 2.1, and of later ones.
        refused = re.search(r'(?:Unsupported class|GLOBAL) (\S+)', str(error))
        if refused and isinstance(error, UnpicklingError):
            what = f'was refused: reading it would call {refused[1]}. Nothing in it was run'
            newer = '' if _has_stand_ins() else 'read it with torch >= 2.6, which knows more; '
            remedy = (
                f'{newer}get the file from a source you trust; if it is one, keep its weights '
                'alone, on a machine that you can throw away: python -c "import torch; '
                f"c = torch.load('{path}', map_location='cpu', weights_only=False); "
                f"torch.save({{'state_dict': c.get('state_dict', c)}}, 'weights.pth')\""
            )
        else:
            detail = str(error).split('WeightsUnpickler error:', 1)[-1].strip()
            detail = detail.partition('\n')[0][:300]
            what = (
                'is truncated or damaged, or not a checkpoint that torch.save wrote '
                f'({type(error).__name__}: {detail})'
            )
            remedy = (
                f"delete '{path}', so that it is downloaded anew"
                if is_downloaded
                else 'download or copy it again, or resume from an earlier checkpoint (resume '
                'without a path takes the newest intact one)'
            )
        raise CheckpointError(f"checkpoint '{source}' {what}. Remedy: {remedy}") from None


def _verify_checksums(file: IO[bytes]) -> None:
    """Look whether a file is as it was written, for torch.load does not."""
    start = file.read(4)
    if not start:
        raise EOFError('it is empty')
    if start == b'PK\x03\x04':  # since torch 1.6; before, without checksums
        with zipfile.ZipFile(file) as archive:
            # All zero where torch.serialization.set_crc32_options(False) was called.
            has_checksums = any(record.CRC for record in archive.infolist())
            if has_checksums and (changed := archive.testzip()):
                raise zipfile.BadZipFile(f"'{changed}' in it does not match its checksum")
    file.seek(0)


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
    """Name the tensors in a checkpoint that hold NaN. Logs may: a metric of nothing is NaN."""
    parts = {k: part for k, part in checkpoint.items() if k not in ('meta', 'message_hub')}
    weights = parts.pop('state_dict', {})
    return [name for part in (weights, parts) for name in non_finite_numbers(part, only_nan=True)]


def weights_of(checkpoint: Mapping, source: str) -> dict[str, Any]:
    """A checkpoint's 'state_dict', or all of it; CheckpointError when there are no weights."""
    weights = checkpoint.get('state_dict', checkpoint)
    if isinstance(weights, dict) and any(isinstance(v, Tensor) for v in weights.values()):
        return weights
    raise CheckpointError(
        f"checkpoint '{source}' has no weights under 'state_dict', only "
        f'{shorten(map(str, checkpoint)) or "nothing"}. '
        "Remedy: save them as torch.save({'state_dict': weights}, FILE)"
    )


def shorten(names: Iterable[str]) -> str:
    """The first five names, and how many more there are."""
    names = list(names)
    rest = f' and {len(names) - 5} more' if len(names) > 5 else ''
    return ', '.join(names[:5]) + rest


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: MapLocation = None) -> dict:
    """Load a local file; see `load_checkpoint_safely`."""
    return load_checkpoint_safely(filename, map_location)


@CheckpointLoader.register_scheme((r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), force=True)
def load_from_ceph(filename: str, map_location: MapLocation = None) -> dict:
    """Load from an `s3://` or `petrel://` store."""
    content = fileio.get_file_backend(filename, backend_args={'backend': 'petrel'}).get(filename)
    return load_checkpoint_safely(io.BytesIO(content), map_location, filename)


@CheckpointLoader.register_scheme(('http://', 'https://'), force=True)
def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
    """Load a file that rank 0 downloads to torch's hub folder, unless it is there."""
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(filename).path).name
    if is_main_process() and not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(filename, str(path), progress=os.isatty(0))
        except (OSError, ValueError) as error:  # urllib's errors are OSErrors
            raise CheckpointError(
                f"checkpoint '{filename}' could not be downloaded ({error}). Remedy: check the "
                f"address and the network, or put the file at '{path}' by hand"
            ) from error
    barrier()
    return load_checkpoint_safely(path, map_location, f'{path} (from {filename})')


@CheckpointLoader.register_scheme(
    ('torchvision://', 'modelzoo://', 'open-mmlab://', 'openmmlab://', 'mmcls://'), force=True
)
def load_from_openmmlab(filename: str, map_location: MapLocation = None) -> dict:
    """Load `SCHEME://NAME` of a list in mmengine or torchvision; of mmcls, the backbone."""
    scheme, _, name = filename.partition('://')
    if scheme == 'mmcls':
        urls = hub.get_mmcls_models()
    elif scheme in ('torchvision', 'modelzoo'):
        urls = fileio.load(Path(mmengine.__file__).parent / 'hub' / 'torchvision_0.12.json')
        if name not in urls:
            with suppress(ImportError):  # most of it is known without torchvision
                urls = hub.get_torchvision_models()
    else:
        urls = hub.get_external_models()
        name = hub.get_deprecated_model_names().get(name, name)
    if name not in urls:
        alike = difflib.get_close_matches(name, urls) or sorted(urls)
        raise CheckpointError(
            f"checkpoint '{filename}': {scheme} has no model of this name. Remedy: correct it, to "
            f'one of {shorten(alike)}'
        )
    checkpoint = CheckpointLoader.load_checkpoint(urls[name], map_location)
    if scheme != 'mmcls':
        return checkpoint
    weights, prefix = weights_of(checkpoint, urls[name]), 'backbone.'
    return {'state_dict': {k[len(prefix) :]: weights[k] for k in weights if k.startswith(prefix)}}
