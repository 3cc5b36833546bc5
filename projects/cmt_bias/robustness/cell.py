"""One cell of a robustness table: the config of its test, its result, and the file it is in."""

import copy
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from mmengine.config import Config
from mmengine.logging import MMLogger

from ..atomic_file import write_atomically
from ..checkpoints.shipped_weights import shipped_digest
from ..failures import Failure, with_failure
from ..metrics.metric_configs import metric_configs
from ..runs.data_check import innermost_datasets

_ELSEWHERE = ('work_dir', 'launcher')  # settings that do not matter to a result


@dataclass(frozen=True)
class CellResult:
    """What a test gave; see :class:`.watch_hook.WatchedSample` for what was watched."""

    identity: str  # of identity_of
    nds: float  # nuScenes detection score, 0-1
    mean_ap: float  # 0-1
    metrics: Mapping[str, float] = field(default_factory=dict)  # all that runner.test() returned
    num_samples: int = 0
    num_changed: int = 0  # of these the failure changed the input; 0 without failure
    weights: Mapping[str, Sequence[float]] = field(default_factory=dict)  # by sample
    falls: Mapping[str, Sequence[float]] = field(default_factory=dict)  # by sample
    camera_attention: Sequence[float] = field(default_factory=list)  # mean over the samples
    # The router's weights of every query, (2, Q) by sample; of the test without failure alone.
    query_weights: dict[str, np.ndarray] = field(default_factory=dict, compare=False)


def cell_config(cfg: Config, failure: Failure, seed: int) -> Config:
    """A copy of a model's config, with a failure in its test pipeline, drawn with the seed.

    Its metrics write no detections: the config of a finished run may name the folder of its own,
    in which those under a failure would replace them. For errors see :func:`.with_failure`.
    """
    cfg = copy.deepcopy(cfg)
    for metric in metric_configs(cfg.get('test_evaluator')):
        metric.pop('jsonfile_prefix', None)
    if failure.transforms:
        for dataset in innermost_datasets(cfg.test_dataloader.dataset):
            dataset['pipeline'] = with_failure(dataset['pipeline'], failure.seeded(seed))
    return cfg


def identity_of(cfg: Config, checkpoint: str) -> str:
    """A hash of the config, failure included, and of the checkpoint's path, size and time.

    Of weights that come with the package it is their digest in place of size and time.
    """
    file, digest = Path(checkpoint), shipped_digest(checkpoint)
    stamp: list[object] = [digest] if digest else []
    if file.is_file():
        stamp = [file.stat().st_size, file.stat().st_mtime_ns]
    settings = {key: value for key, value in cfg.to_dict().items() if key not in _ELSEWHERE}
    text = json.dumps([settings, checkpoint, stamp], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def save_result(path: Path, result: CellResult) -> None:
    """Write a result, whole or not at all; its weights of queries are a file beside it."""
    if result.query_weights:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **result.query_weights)
        write_atomically(path.with_suffix('.npz'), buffer.getvalue())
    content = {name: value for name, value in vars(result).items() if name != 'query_weights'}
    write_atomically(path, json.dumps(content, indent=1).encode())


def load_result(path: Path, identity: str, with_query_weights: bool = False) -> CellResult | None:
    """The result of an earlier run; None if there is none, or that of another test.

    A damaged file counts as none, with a warning: the test is made again. So does, if asked for
    ``with_query_weights``, a router's result whose weights of queries are not readable.
    """
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text())
        if stored['identity'] != identity:
            return None
        result = CellResult(**stored)
        for pairs in (result.weights, result.falls):
            np.array([*pairs.values()], float).reshape(len(pairs), 2)
        if with_query_weights and result.weights:
            with np.load(path.with_suffix('.npz')) as weights:
                result.query_weights.update(weights)
        return result
    except (OSError, ValueError, TypeError, KeyError, AttributeError, BadZipFile) as error:
        MMLogger.get_current_instance().warning(
            f"'{path}' is damaged ({type(error).__name__}: {error}); its test is made again"
        )
        return None
