"""Checkpoints at addresses and in model collections, loaded as safely as local files.

Importing it registers the loaders with mmengine's `CheckpointLoader`. They carry the names of
those that they replace, out of which mmengine cuts its log message.
"""

import difflib
import io
import os
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

from .safe_loading import CheckpointError, MapLocation, load_checkpoint_safely, shorten, weights_of


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
    """Load a file that rank 0 downloads to torch's hub folder, unless it is there.

    Raises:
        CheckpointError: When the download fails.
    """
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(filename).path).name
    rank, world_size = get_dist_info()
    if rank == 0 and not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(filename, str(path), progress=os.isatty(0))
        except (OSError, ValueError) as error:  # urllib's errors are OSErrors
            raise CheckpointError(
                f"checkpoint '{filename}' could not be downloaded ({error}). Remedy: check the "
                f"address and the network, or put the file at '{path}' by hand (make its folder "
                'if need be)'
            ) from error
    if world_size > 1:
        torch.distributed.barrier()
    return load_checkpoint_safely(path, map_location, source=f'{path} (from {filename})')


@CheckpointLoader.register_scheme((r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), force=True)
def load_from_ceph(filename: str, map_location: MapLocation = None) -> dict:
    """Load from an `s3://` or `petrel://` store."""
    content = get_file_backend(filename, backend_args={'backend': 'petrel'}).get(filename)
    return load_checkpoint_safely(io.BytesIO(content), map_location, source=filename)


@CheckpointLoader.register_scheme(
    ('torchvision://', 'modelzoo://', 'open-mmlab://', 'openmmlab://', 'mmcls://'), force=True
)
def load_from_openmmlab(filename: str, map_location: MapLocation = None) -> dict:
    """Load `SCHEME://NAME` from mmengine's and torchvision's lists; of a classifier, its backbone.

    Raises:
        CheckpointError: When the scheme's list does not have the name.
    """
    scheme, _, name = filename.partition('://')
    if scheme == 'mmcls':
        urls = get_mmcls_models()
    elif scheme in ('torchvision', 'modelzoo'):
        urls = load_file(Path(mmengine.__file__).parent / 'hub' / 'torchvision_0.12.json')
        if name not in urls:
            with suppress(ImportError):  # most of it is known without torchvision
                urls = get_torchvision_models()
    else:
        urls = get_external_models()
        name = get_deprecated_model_names().get(name, name)
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
