"""Trained weights that come with the package: ``load_from = 'cmt_bias://NAME'``."""

import hashlib
import json
from pathlib import Path
from typing import Any

from mmengine.runner import CheckpointLoader

from .safe_loading import CheckpointError, MapLocation, load_checkpoint_safely

SCHEME = 'cmt_bias://'
FOLDER = Path(__file__).resolve().parents[1] / 'weights'


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_package(filename: str, map_location: MapLocation = None) -> dict:
    """Load ``cmt_bias://NAME``, a checkpoint with ``state_dict`` in half precision.

    Raises:
        CheckpointError: If there are no such weights, or not as their record describes them.
    """
    path = FOLDER / f'{filename.removeprefix(SCHEME)}.pth'
    expected = shipped_digest(filename)
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise CheckpointError(
            f"'{path}' is not the file that its record describes (sha256 {expected}); install the "
            'package again, or get the file with `git checkout`'
        )
    return load_checkpoint_safely(path, map_location, source=filename)


def weights_record(name: str) -> dict[str, Any]:
    """How weights were made and what they score; CheckpointError for a name that is not known."""
    path = FOLDER / f'{name}.json'
    if not path.is_file():
        known = ', '.join(SCHEME + file.stem for file in sorted(FOLDER.glob('*.json')))
        raise CheckpointError(f"the package has no weights '{SCHEME}{name}'; there is {known}")
    return json.loads(path.read_text())


def shipped_digest(checkpoint: str | None) -> str:
    """The sha256 of weights ``cmt_bias://NAME``, which may change; '' for any other checkpoint."""
    if not checkpoint or not checkpoint.startswith(SCHEME):
        return ''
    return weights_record(checkpoint.removeprefix(SCHEME))['sha256']
