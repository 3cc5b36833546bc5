"""Trained weights that come with the package: ``load_from = 'cmt_bias://NAME'``."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from ..atomic_file import write_atomically
from .safe_loading import CheckpointError, MapLocation, load_checkpoint_safely

SCHEME = 'cmt_bias://'
FOLDER = Path(__file__).resolve().parents[1] / 'weights'


def load_from_package(filename: str, map_location: MapLocation = None) -> Any:
    """Load ``cmt_bias://NAME``, a checkpoint with ``state_dict`` in half precision.

    Raises:
        CheckpointError: If there are no weights of this name, or the file is not the one that its
            record describes.
    """
    path = FOLDER / f'{filename.removeprefix(SCHEME)}.pth'
    if not path.is_file():
        known = ', '.join(SCHEME + file.stem for file in sorted(FOLDER.glob('*.pth')))
        raise CheckpointError(f"the package has no weights '{filename}'; there is {known}")
    expected = weights_record(path.stem)['sha256']
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise CheckpointError(
            f"'{path}' is not the file that its record describes (sha256 {expected}); install the "
            'package again, or get the file with `git checkout`'
        )
    return load_checkpoint_safely(path, map_location, source=filename)


def weights_record(name: str) -> dict[str, Any]:
    """How weights were made and what they score: the JSON file beside them."""
    return json.loads((FOLDER / f'{name}.json').read_text())


def write_weights(
    path: Path, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any], record: Mapping
) -> None:
    """Write weights in half precision, and their record with its ``sha256`` beside them.

    Args:
        path: Ends in ``.pth``; the record gets the ending ``.json``.
        state_dict: Of the model.
        meta: The checkpoint's ``meta``; plain data.
        record: What is to be known about the weights.

    Raises:
        ValueError: If a value is not finite in half precision; it names the parameter.
    """
    halved = {}
    for name, value in state_dict.items():
        halved[name] = value.half() if value.is_floating_point() else value
        if not torch.isfinite(halved[name]).all():
            raise ValueError(f"'{name}' has values that half precision cannot hold")
    buffer = io.BytesIO()
    torch.save(dict(meta=dict(meta), state_dict=halved), buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    text = json.dumps(dict(record, sha256=digest, bytes=len(content)), indent=2)
    write_atomically(path, content)
    write_atomically(path.with_suffix('.json'), text.encode() + b'\n')


CheckpointLoader.register_scheme(prefixes=SCHEME, loader=load_from_package, force=True)
