"""Load checkpoints of mmengine without running code that they bring.

With torch >= 2.6 mmengine 0.10.7 can neither load nor resume its own checkpoints: torch then reads
plain data alone, and the checkpoints hold a few more kinds of objects. Importing this module
registers loaders with mmengine's `CheckpointLoader` that read them through inert stand-ins (see
`pickle_stand_ins`), still under torch's restricted unpickler. So everything in mmengine that loads
a checkpoint works: `load_from`, `resume`, `init_cfg=dict(type='Pretrained')`, `init_model`.
"""

import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any
from urllib.parse import urlparse

import mmengine
import torch
from mmengine.dist import get_dist_info
from mmengine.fileio import get_file_backend
from mmengine.fileio import load as load_file
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    _process_mmcls_checkpoint,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from .pickle_stand_ins import STAND_INS, rebuild_recorded_objects

MapLocation = str | torch.device | dict[str, str] | Callable | None

_ZIP_MAGIC = b'PK\x03\x04'
# Unlike RuntimeErrors, which also say that a device is missing or its memory is full.
_ERRORS_OF_BAD_DATA = (
    UnpicklingError,
    EOFError,
    RecursionError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
)
_OLDEST_TORCH = (2, 6)  # the first whose allow-list takes an object under another's name


class CheckpointError(RuntimeError):
    """A checkpoint file cannot be used; the message names the file, the cause and a remedy."""


class UnsafeCheckpointError(CheckpointError):
    """Reading the file as it is would run code that the file names. None of it was run."""


class DamagedCheckpointError(CheckpointError):
    """The file is incomplete, or not a checkpoint at all."""


def load_checkpoint_safely(
    file: str | os.PathLike[str] | IO[bytes],
    map_location: MapLocation = None,
    source: str | None = None,
) -> Any:
    """Load a checkpoint that torch.save wrote, refusing any that would run code.

    Beside what torch's `weights_only=True` reads, numpy arrays and scalars, mmengine's
    `HistoryBuffer` and its `ConfigDict` (as a dict) are understood. Classes that the program
    itself has allowed with `torch.serialization.add_safe_globals` are accepted as well.

    Args:
        file: Path, or an open binary file.
        map_location: As for :func:`torch.load`.
        source: Name to call the file in messages; by default its path.

    Returns:
        What was saved. `state_dict._metadata` is kept: mmdet3d decides by it whether sparse
        convolution weights must be permuted.

    Raises:
        FileNotFoundError: When there is no such file.
        UnsafeCheckpointError: When the file needs a class or function that is not allowed.
        DamagedCheckpointError: When the file is truncated or no checkpoint.
    """
    if isinstance(file, (str, os.PathLike)):
        path = Path(file).expanduser()
        source = source or str(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"checkpoint '{source}' can not be found; check the path, or "
                f"leave out 'load_from'/'resume'"
            )
        with path.open('rb') as opened:
            return load_checkpoint_safely(opened, map_location, source)
    source = source or 'checkpoint'
    with _stand_ins_allowed():
        try:
            checkpoint = torch.load(file, map_location=map_location, weights_only=True)
        except Exception as error:
            explained = _explain_failure(file, source, error)
            if explained is error:
                raise
            # torch's own message about unsafe files proposes to load them without restriction
            cause = None if isinstance(explained, UnsafeCheckpointError) else error
            raise explained from cause
    return rebuild_recorded_objects(checkpoint, source)


@contextmanager
def _stand_ins_allowed() -> Iterator[None]:
    """Put the stand-ins on torch's allow-list, in front of anything allowed under their names."""
    if tuple(int(n) for n in torch.__version__.split('.')[:2]) < _OLDEST_TORCH:
        raise CheckpointError(
            f'torch {torch.__version__} cannot load checkpoints safely; install torch >= 2.6'
        )
    names = {name for _, name in STAND_INS}
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([g for g in before if _full_name(g) not in names])
    torch.serialization.add_safe_globals(list(STAND_INS))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _full_name(allowed: Any) -> str:
    if isinstance(allowed, tuple):
        return allowed[1]
    return f'{allowed.__module__}.{allowed.__qualname__}'


def _explain_failure(file: IO[bytes], source: str, error: Exception) -> Exception:
    """The error to raise instead of one of torch.load's, or that error itself."""
    refused = _refused_globals(file, error)
    if refused:
        return UnsafeCheckpointError(
            f"checkpoint '{source}' was refused, because reading it would call "
            f'{", ".join(refused)}. Nothing in it was run. Remedy: get the file from a source '
            f'you trust; if it is one, keep its weights alone, on a machine that you can throw '
            f'away: python -c "import torch; '
            f"c = torch.load('{source}', map_location='cpu', weights_only=False); "
            f"torch.save({{'state_dict': c.get('state_dict', c)}}, 'weights.pth')\""
        )
    damage = _describe_damage(file, error)
    if damage:
        return DamagedCheckpointError(
            f"checkpoint '{source}' {damage}. Remedy: download or copy it again, or resume from "
            f'an earlier checkpoint (resume without a path takes the newest intact one)'
        )
    return error


def _refused_globals(file: IO[bytes], error: Exception) -> list[str]:
    """Full names of the classes and functions that are not allowed, empty if that was not it."""
    if not isinstance(error, UnpicklingError):
        return []
    file.seek(0)
    try:
        refused = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # not a zip file, or one whose pickle cannot be scanned: see the message
        refused = []
    named_by_torch = re.findall(r'GLOBAL (\S+)', str(error))
    known = {name.removeprefix('builtins.') for name in refused}
    refused += [name for name in named_by_torch if name.removeprefix('builtins.') not in known]
    return sorted(set(refused))


def _describe_damage(file: IO[bytes], error: Exception) -> str | None:
    """Say what is wrong with the bytes of a file, None if they are not what failed."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    if size == 0:
        return 'is empty'
    if is_zip and not zipfile.is_zipfile(file):
        return f'is truncated: it ends after {size} bytes, before its table of contents'
    if 'PytorchStreamReader' in str(error) or 'unexpected EOF' in str(error):
        return f'is truncated or damaged ({str(error).splitlines()[0]})'
    if not isinstance(error, _ERRORS_OF_BAD_DATA):
        return None
    if not is_zip:
        return 'is truncated, or not a checkpoint that torch.save wrote'
    reason = re.search(r'WeightsUnpickler error:\s*(.+)', str(error))
    return f'holds data that is not understood ({reason.group(1) if reason else error})'


# The functions below carry the names of the mmengine loaders that they replace: mmengine cuts
# its log message ('Loads checkpoint by local backend') out of the function's name.


def load_from_local(filename: str, map_location: MapLocation = None) -> Any:
    """Load a local file; see `load_checkpoint_safely`."""
    return load_checkpoint_safely(filename, map_location)


def load_from_http(filename: str, map_location: MapLocation = None) -> Any:
    """Download a file to torch's hub folder, unless it is there, and load it.

    Rank 0 downloads, the others wait.

    Raises:
        CheckpointError: When the download fails.
    """
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(filename).path).name
    rank, world_size = get_dist_info()
    if rank == 0 and not path.exists():
        _download(filename, path)
    if world_size > 1:
        torch.distributed.barrier()
    return load_checkpoint_safely(path, map_location, source=f'{path} (from {filename})')


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), progress=os.isatty(0))
    except OSError as error:  # urllib's errors are OSErrors
        raise CheckpointError(
            f"checkpoint '{url}' could not be downloaded ({error}). Remedy: check the address and "
            f"the network, or put the file at '{path}' by hand"
        ) from error


def load_from_ceph(
    filename: str, map_location: MapLocation = None, backend: str = 'petrel'
) -> Any:
    """Load from an `s3://` or `petrel://` store."""
    content = get_file_backend(filename, backend_args={'backend': backend}).get(filename)
    return load_checkpoint_safely(io.BytesIO(content), map_location, source=filename)


def load_from_torchvision(filename: str, map_location: MapLocation = None) -> Any:
    """Load `torchvision://NAME` (or `modelzoo://NAME`); torchvision need not be installed.

    Raises:
        ImportError: When the name is not in mmengine's list and torchvision is not installed.
    """
    name = filename.split('://', 1)[1]
    urls = load_file(Path(mmengine.__file__).parent / 'hub' / 'torchvision_0.12.json')
    url = urls[name] if name in urls else get_torchvision_models()[name]
    return load_from_http(url, map_location)


def load_from_openmmlab(filename: str, map_location: MapLocation = None) -> Any:
    """Load `open-mmlab://NAME` (or `openmmlab://NAME`) from OpenMMLab's list of models."""
    name = filename.split('://', 1)[1]
    location = get_external_models()[get_deprecated_model_names().get(name, name)]
    if location.startswith(('http://', 'https://')):
        return load_from_http(location, map_location)
    return load_checkpoint_safely(location, map_location)


def load_from_mmcls(filename: str, map_location: MapLocation = None) -> Any:
    """Load the backbone of `mmcls://NAME` from OpenMMLab's list of classifiers."""
    url = get_mmcls_models()[filename.split('://', 1)[1]]
    return _process_mmcls_checkpoint(load_from_http(url, map_location))


_LOADERS: dict[Callable, tuple[str, ...]] = {
    load_from_local: ('',),
    load_from_http: ('http://', 'https://'),
    load_from_ceph: (r'(\S+\:)?s3://', r'(\S+\:)?petrel://'),
    load_from_torchvision: ('modelzoo://', 'torchvision://'),
    load_from_openmmlab: ('open-mmlab://', 'openmmlab://'),
    load_from_mmcls: ('mmcls://',),
}
for _loader, _prefixes in _LOADERS.items():
    CheckpointLoader.register_scheme(prefixes=_prefixes, loader=_loader, force=True)
