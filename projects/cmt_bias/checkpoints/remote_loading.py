"""Checkpoints at addresses and in model collections, loaded as safely as local files.

Importing it registers the loaders with mmengine's `CheckpointLoader`.
"""

import difflib
import io
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

import mmengine
import torch
from mmengine.dist import get_dist_info
from mmengine.fileio import get_file_backend
from mmengine.fileio import load as load_file
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from .safe_loading import (
    CheckpointError,
    MapLocation,
    load_checkpoint_safely,
    shorten,
    weights_of,
)

# The functions below carry the names of the mmengine loaders that they replace: mmengine cuts
# its log message ('Loads checkpoint by local backend') out of the function's name.


def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=os.isatty(0))
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        raise CheckpointError(
            f"checkpoint '{url}' could not be downloaded ({error}). Remedy: check the address and "
            f"the network, or put the file at '{path}' by hand (make its folder if need be)"
        ) from error


def load_from_ceph(
    filename: str, map_location: MapLocation = None, backend: str = 'petrel'
) -> dict:
    """Load from an `s3://` or `petrel://` store."""
    content = get_file_backend(filename, backend_args={'backend': backend}).get(filename)
    return load_checkpoint_safely(io.BytesIO(content), map_location, source=filename)


def load_from_torchvision(filename: str, map_location: MapLocation = None) -> dict:
    """Load `torchvision://NAME` (or `modelzoo://NAME`); torchvision need not be installed.

    Raises:
        CheckpointError: When neither mmengine's list nor an installed torchvision has the name.
    """
    urls = load_file(Path(mmengine.__file__).parent / 'hub' / 'torchvision_0.12.json')
    if filename.split('://', 1)[1] not in urls:
        with suppress(ImportError):
            urls = {**get_torchvision_models(), **urls}
    return load_from_http(_address_in_collection(filename, urls), map_location)


def load_from_openmmlab(filename: str, map_location: MapLocation = None) -> dict:
    """Load `open-mmlab://NAME` (or `openmmlab://NAME`) from OpenMMLab's list of models."""
    urls = get_external_models()
    renamed = {old: urls[new] for old, new in get_deprecated_model_names().items() if new in urls}
    address = _address_in_collection(filename, {**renamed, **urls})
    if address.startswith(('http://', 'https://')):
        return load_from_http(address, map_location)
    return load_checkpoint_safely(address, map_location)


def load_from_mmcls(filename: str, map_location: MapLocation = None) -> dict:
    """Load the backbone of `mmcls://NAME` from OpenMMLab's list of classifiers."""
    address = _address_in_collection(filename, get_mmcls_models())
    weights = weights_of(load_from_http(address, map_location), address)
    prefix = 'backbone.'
    return {
        'state_dict': {
            key[len(prefix) :]: tensor for key, tensor in weights.items() if key.startswith(prefix)
        }
    }


def _address_in_collection(filename: str, urls: Mapping[str, str]) -> str:
    scheme, _, name = filename.partition('://')
    if name not in urls:
        alike = difflib.get_close_matches(name, urls) or sorted(urls)
        raise CheckpointError(
            f"checkpoint '{filename}': {scheme} has no model of this name. Remedy: correct it, to "
            f'one of {shorten(alike)}'
        )
    return urls[name]


_LOADERS: dict[Callable, tuple[str, ...]] = {
    load_from_http: ('http://', 'https://'),
    load_from_ceph: (r'(\S+\:)?s3://', r'(\S+\:)?petrel://'),
    load_from_torchvision: ('modelzoo://', 'torchvision://'),
    load_from_openmmlab: ('open-mmlab://', 'openmmlab://'),
    load_from_mmcls: ('mmcls://',),
}
for _loader, _prefixes in _LOADERS.items():
    CheckpointLoader.register_scheme(prefixes=_prefixes, loader=_loader, force=True)
