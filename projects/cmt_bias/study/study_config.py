"""What a study is: training configs to compare, seeds, and the questions it is to answer."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checkpoints.shipped_weights import shipped_digest
from ..failures import find_failures
from ..metrics.metric_configs import NUSCENES_METRIC, nuscenes_metric_configs
from ..problem import Problem
from ..runs.preflight import ProblemsFound, stop_on
from ..runs.run_options import without_formatting


@dataclass(frozen=True)
class Question:
    """One comparison that the report answers: ``variant`` with ``against``, seed by seed."""

    text: str
    variant: str
    against: str
    subset: str = 'whole'  # part of the measures, such as 'night', or 'failures', their mean
    metric: str = 'mAP'
    claimed: float | None = None  # a difference that somebody has claimed


@dataclass(frozen=True)
class Study:
    """A study as its file describes it."""

    path: Path  # the file; the training config of a variant is <name>.py beside it
    title: str
    variants: Mapping[str, str]  # title of each by its name, in the report's order
    reference: str  # name of the variant that the others are compared with
    seeds: tuple[int, ...]
    failures: tuple[str, ...] = ()  # that each run is tested under, wildcards allowed
    failure_options: tuple[str, ...] = ()  # settings key=value of these tests alone
    questions: tuple[Question, ...] = ()


STUDY_KEYS = frozenset(Study.__dataclass_fields__) - {'path'}


def read_study(path: Path) -> Study:
    """Read and check a study's file; ProblemsFound names all that is wrong with it.

    It is an mmengine config with the keys variants (a dict from name to title), seeds, and, if
    wanted, title, reference, failures, failure_options (a dict, as ``--cfg-options`` has it) and
    questions (a list of dicts with the attributes of :class:`Question`).
    """
    if not path.is_file():
        remedy = 'name a study, such as configs/studies/learnable_scale/study.py'
        raise ProblemsFound([Problem(f"the study '{path}' does not exist", remedy)])
    content: dict[str, Any] = Config.fromfile(path, import_custom_modules=False).to_dict()
    faults = _faults(content, path.parent)
    stop_on([Problem(f"'{path}': {what}", remedy) for what, remedy in faults])
    failures = tuple(content.get('failures', ()))
    options = content.get('failure_options', {}) if failures else {}
    return Study(
        path=path,
        title=content.get('title', path.resolve().parent.name),
        variants=content['variants'],
        reference=content.get('reference', next(iter(content['variants']))),
        seeds=tuple(content['seeds']),
        failures=failures,
        failure_options=tuple(f'{key}={value}' for key, value in options.items()),
        questions=tuple(Question(**question) for question in content.get('questions', ())),
    )


def _faults(content: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    """What is wrong with a study's file, and the remedy of each."""
    for key in content.keys() - STUDY_KEYS:
        yield f"it has the unknown key '{key}'", f'known keys: {", ".join(sorted(STUDY_KEYS))}'
    variants, seeds = content.get('variants'), content.get('seeds')
    if not isinstance(variants, Mapping) or not variants:
        remedy = "variants = dict(fixed='scale fixed at 2.5', ...), each with a config fixed.py"
        yield 'variants must name the variants', remedy
        variants = {}
    for name in variants:
        config = folder / f'{name}.py'
        if not re.fullmatch(r'\w[\w-]*', name):
            what = f"the variant's name '{name}' cannot name its folder"
            yield what, 'use letters, digits, _ and -'
        elif not config.is_file():
            yield f"the variant '{name}' has no config", f"write '{config}'"
    is_list = isinstance(seeds, list | tuple) and all(isinstance(seed, int) for seed in seeds)
    if not is_list or not seeds or len(set(seeds)) < len(seeds):
        yield 'seeds must be a list of different integers', 'seeds = [0, 1, 2, 3, 4]'
    keys, names = Question.__dataclass_fields__, {content.get('reference')} - {None}
    for question in content.get('questions', ()):
        if not {'text', 'variant', 'against'} <= set(question) <= set(keys):
            remedy = f'give text, variant, against; possible keys: {", ".join(keys)}'
            yield f'the question {dict(question)} cannot be understood', remedy
        pair = [question[key] for key in ('variant', 'against') if key in question]
        if len(pair) > len(set(pair)):
            yield f"a question compares '{pair[0]}' with itself", 'choose two variants'
        names.update(pair)
    for name in names - set(variants):
        yield f"'{name}' is none of the variants", f'choose one of {", ".join(variants)}'
    failures = content.get('failures', ())
    try:
        if not isinstance(failures, list | tuple):
            raise TypeError(f'failures must be a list of names, not {failures!r}')
        find_failures(failures)
    except (TypeError, ValueError) as error:
        yield str(error), "failures = ['lidar_drop', 'night_3', ...]"


def run_config(
    study: Study, variant: str, seed: int, options: Mapping[str, Any] | None = None
) -> Config:
    """The config that one run is trained and tested with, without a work directory.

    ``options`` are those of ``--cfg-options``. ProblemsFound if the weights that it starts from
    are not there, it has no nuScenes metric, or all runs would write checkpoints to one folder.
    """
    path = study.path.with_name(f'{variant}.py')
    cfg = without_formatting(Config.fromfile(path, import_custom_modules=False))
    cfg.merge_from_dict(dict(options or {}))
    problems = []
    if ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir'):
        what = f"'{path}': default_hooks.checkpoint.out_dir would be the folder of every run"
        problems.append(Problem(what, 'leave it out: runs keep checkpoints in their own folders'))
    load_from = cfg.get('load_from')
    if load_from is not None and '://' not in load_from and not Path(load_from).is_file():
        what = f"'{path}': the checkpoint load_from='{load_from}' does not exist"
        problems.append(Problem(what, 'name another with --cfg-options load_from=FILE'))
    if not nuscenes_metric_configs(cfg.get('test_evaluator')):
        what = f"'{path}' has no {NUSCENES_METRIC} in test_evaluator"
        problems.append(Problem(what, 'a study compares nuScenes metrics: add it'))
    stop_on(problems)
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    cfg.resume = False
    cfg.pop('work_dir', None)
    return cfg


def run_key(cfg: Config, num_processes: int) -> str:
    """A digest of all that decides what a run gives: settings, starting weights, processes."""
    digest = hashlib.sha256(json.dumps(cfg.to_dict(), sort_keys=True, default=str).encode())
    digest.update(str(num_processes).encode())
    load_from = cfg.get('load_from') or ''
    digest.update(shipped_digest(load_from).encode())
    if load_from and '://' not in load_from:
        digest.update(Path(load_from).read_bytes())
    return digest.hexdigest()


def keep_detections(cfg: Config, folder: Path) -> None:
    """Let the test leave ``<folder>/pred_instances_3d/results_nusc.json``; in place."""
    nuscenes_metric_configs(cfg.test_evaluator)[0]['jsonfile_prefix'] = str(folder)
