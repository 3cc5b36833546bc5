"""The config of one run of a study, and the key that tells whether a run is the same."""

import hashlib
import json
from pathlib import Path

from mmengine.config import Config

from ..metrics.metric_configs import NUSCENES_METRIC, nuscenes_metric_configs
from ..problem import Problem
from ..runs.preflight import ProblemsFound
from .config_overrides import OverrideError, apply_overrides, remove_entries
from .study_config import Study, Variant


def variant_config(study: Study, variant: Variant, seed: int, checkpoint: str) -> Config:
    """The config that one run is trained and tested with.

    Args:
        study: The study.
        variant: One of its variants.
        seed: Of the run.
        checkpoint: Weights to start from.

    Returns:
        The config, without a work directory.

    Raises:
        ProblemsFound: If an override does not fit the variant's config.
    """
    cfg = load_plain_config(variant.config)
    try:
        apply_overrides(cfg, study.overrides)
        apply_overrides(cfg, variant.overrides)
        remove_entries(cfg, variant.remove)
    except OverrideError as error:
        what = f"the study's variant '{variant.name}' does not fit '{variant.config}': {error}"
        raise ProblemsFound([Problem(what, "correct the study's overrides or remove")]) from error
    cfg.load_from = checkpoint
    return with_seed(cfg, seed)


def start_training_config(path: str, seed: int) -> Config:
    """The config of the training that makes the weights which all runs start from."""
    return with_seed(load_plain_config(path), seed)


def load_plain_config(path: str) -> Config:
    """A training config; modules that it imports are left for the training to import."""
    return Config.fromfile(path, import_custom_modules=False)


def with_seed(cfg: Config, seed: int) -> Config:
    """The config with this seed, and with nothing that the runner of a study sets itself."""
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    cfg.resume = False
    cfg.pop('work_dir', None)
    return cfg


def run_key(cfg: Config, checkpoint_digest: str, num_processes: int) -> str:
    """A digest of all settings that decide what a run gives.

    Args:
        cfg: The effective config.
        checkpoint_digest: Digest of the starting weights.
        num_processes: Processes of the training; with them changes the effective batch.

    Returns:
        A hexadecimal digest.
    """
    settings = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    parts = f'{settings}\0{checkpoint_digest}\0{num_processes}'
    return hashlib.sha256(parts.encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def keep_detections(cfg: Config, folder: Path) -> None:
    """Let the nuScenes metric of the test leave its detections in a folder.

    Args:
        cfg: The config, changed in place.
        folder: ``<folder>/pred_instances_3d/results_nusc.json`` will be the file.

    Raises:
        ProblemsFound: If the test has no nuScenes metric.
    """
    metrics = nuscenes_metric_configs(cfg.get('test_evaluator'))
    if not metrics:
        what = f'the config has no {NUSCENES_METRIC} in test_evaluator'
        raise ProblemsFound([Problem(what, 'a study compares nuScenes metrics: add it')])
    metrics[0]['jsonfile_prefix'] = str(folder)
