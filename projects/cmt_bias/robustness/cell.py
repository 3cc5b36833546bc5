"""One cell of a robustness table: a model under a failure, its result, and the file it is in."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger

from ..atomic_file import write_atomically
from ..failures import Failure, with_failure
from ..metrics.metric_configs import metric_configs

_ELSEWHERE = ('work_dir', 'launcher')  # settings that do not matter to a result


@dataclass(frozen=True)
class Cell:
    """A test that is to be made.

    Attributes:
        model: The model's name in the tables.
        failure: What is done to its input.
        identity: Changes with everything that the result depends on, see :func:`identity_of`.
        path: File of the result.
    """

    model: str
    failure: Failure
    identity: str
    path: Path


@dataclass(frozen=True)
class CellResult:
    """What a test gave.

    Attributes:
        identity: That of the cell.
        nds: nuScenes detection score, 0-1.
        mean_ap: Mean average precision, 0-1.
        metrics: All that ``runner.test()`` returned, as numbers.
        num_samples: Samples tested.
        num_changed: Samples whose input the failure changed; 0 without failure.
        weights: By sample, the router's mean weights of LiDAR and cameras; empty without router.
        falls: By sample, how far trust in the failed sensors has fallen, see
            :func:`.trust_shift.trust_falls`.
        camera_attention: Share of the attention that goes to cameras, of each decoder layer.
    """

    identity: str
    nds: float
    mean_ap: float
    metrics: dict[str, float] = field(default_factory=dict)
    num_samples: int = 0
    num_changed: int = 0
    weights: dict[str, tuple[float, float]] = field(default_factory=dict)
    falls: dict[str, tuple[float, float]] = field(default_factory=dict)
    camera_attention: list[float] = field(default_factory=list)


def insert_failure(cfg: Config, failure: Failure, seed: int) -> None:
    """Put a failure into the test pipeline of a config; without transforms it stays as it is.

    Args:
        cfg: The config, changed in place.
        failure: The failure.
        seed: Seed of its random numbers.

    Raises:
        ValueError: If the pipeline has no place for it.
    """
    if failure.transforms:
        _insert(cfg.test_dataloader.dataset, failure, seed)


def _insert(dataset: ConfigDict, failure: Failure, seed: int) -> None:
    """Into a data set, or into those that it wraps."""
    if dataset.get('pipeline'):
        dataset.pipeline = with_failure(dataset.pipeline, failure.seeded(seed))
        return
    for part in dataset.get('datasets') or [dataset['dataset']]:
        _insert(part, failure, seed)


def keep_no_detections(cfg: Config) -> None:
    """Let the test's metrics write no detections, in place.

    The config of a finished run may name the folder of its own: a test under a failure would put
    its detections in their place.
    """
    for metric in metric_configs(cfg.get('test_evaluator')):
        metric.pop('jsonfile_prefix', None)


def identity_of(cfg: Config, checkpoint: str) -> str:
    """A hash of the config, failure included, and of the checkpoint's path, size and time."""
    file = Path(checkpoint)
    stamp = [file.stat().st_size, file.stat().st_mtime_ns] if file.is_file() else []
    settings = {key: value for key, value in cfg.to_dict().items() if key not in _ELSEWHERE}
    text = json.dumps([settings, checkpoint, stamp], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def save_query_weights(cell: Cell, weights: Mapping[str, np.ndarray]) -> None:
    """Write the router's weights of every query, ``(2, Q)`` by sample, beside a cell's result."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **weights)
    write_atomically(cell.path.with_suffix('.npz'), buffer.getvalue())


def load_query_weights(cell: Cell) -> dict[str, np.ndarray]:
    """What :func:`save_query_weights` has written; empty where there is nothing readable."""
    try:
        with np.load(cell.path.with_suffix('.npz')) as stored:
            return dict(stored)
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}


def save_result(path: Path, result: CellResult) -> None:
    """Write a result, whole or not at all."""
    write_atomically(path, json.dumps(asdict(result), indent=1).encode())


def load_result(cell: Cell) -> CellResult | None:
    """The result of an earlier run; None if there is none, or the cell was another one then.

    A damaged file counts as none, with a warning: the test is made again.
    """
    if not cell.path.is_file():
        return None
    try:
        stored = json.loads(cell.path.read_text())
        if stored['identity'] != cell.identity:
            return None
        for key in ('weights', 'falls'):
            stored[key] = {name: (pair[0], pair[1]) for name, pair in stored.get(key, {}).items()}
        return CellResult(**stored)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        MMLogger.get_current_instance().warning(
            f"'{cell.path}' is damaged ({type(error).__name__}: {error}); its test is made again"
        )
        return None
