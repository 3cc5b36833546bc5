"""The folder of a study: where its runs are, and what the study was."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..atomic_file import write_atomically
from ..problem import Problem
from ..runs.preflight import ProblemsFound
from .effective_config import file_digest, run_key, start_training_config, variant_config
from .run_lock import FolderLock
from .run_state import read_state
from .study_config import START_FOLDER, Study
from .study_run import RunPlan

STUDY_FILE = 'study.json'
LOCK_FILE = 'study.lock'


@dataclass(frozen=True)
class StudyRecord:
    """What the analysis knows of a study.

    Attributes:
        name: Short name.
        title: Heading.
        variants: Title of each variant by its name, in order.
        reference: Variant that the others are compared with.
        seeds: Of each variant.
        start: What the runs started from.
        command: The command that was given last.
    """

    name: str
    title: str
    variants: dict[str, str]
    reference: str
    seeds: tuple[int, ...]
    start: str
    command: str


def run_folder(work_dir: Path, variant: str, seed: int) -> Path:
    """Where a run is."""
    return work_dir / variant / f'seed_{seed}'


def write_record(work_dir: Path, study: Study, command: str) -> None:
    """Note what the study is, for the analysis."""
    record = StudyRecord(
        name=study.name,
        title=study.title,
        variants={variant.name: variant.title for variant in study.variants},
        reference=study.reference,
        seeds=study.seeds,
        start=study.load_from or f'weights trained with {study.start_config}',
        command=command,
    )
    write_atomically(work_dir / STUDY_FILE, json.dumps(asdict(record), indent=2).encode())


def read_record(work_dir: Path) -> StudyRecord:
    """What the study is.

    Raises:
        ProblemsFound: If the folder is not that of a study.
    """
    path = work_dir / STUDY_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return StudyRecord(**{**content, 'seeds': tuple(content['seeds'])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        what = f"'{work_dir}' is not the folder of a study: no readable {STUDY_FILE}"
        remedy = 'name the --work-dir of tools/run_study.py, or start the study first'
        raise ProblemsFound([Problem(what, remedy)]) from error


def plan_start(study: Study, work_dir: Path, num_processes: int) -> RunPlan | None:
    """The training of the weights to start from; None where there is a checkpoint."""
    if study.start_config is None:
        return None
    config = start_training_config(study.start_config, seed=0)
    load_from = config.get('load_from')
    is_file = load_from is not None and Path(load_from).is_file()
    digest = file_digest(load_from) if is_file else ''
    key = run_key(config, digest, num_processes)
    return RunPlan('starting weights', work_dir / START_FOLDER, config, key, is_tested=False)


def starting_checkpoint(study: Study, work_dir: Path) -> str:
    """The checkpoint that all runs start from, once it is there."""
    if study.load_from is not None:
        return study.load_from
    state = read_state(work_dir / START_FOLDER)
    assert state is not None, 'the training of the starting weights comes first'
    return state.checkpoint


def plan_runs(study: Study, work_dir: Path, num_processes: int, checkpoint: str) -> list[RunPlan]:
    """All runs, all variants of a seed before the next seed, so that few seeds can be compared.

    Raises:
        ProblemsFound: If a variant does not fit its config.
    """
    digest = file_digest(checkpoint)
    plans = []
    for seed in study.seeds:
        for variant in study.variants:
            config = variant_config(study, variant, seed, checkpoint)
            key = run_key(config, digest, num_processes)
            folder = run_folder(work_dir, variant.name, seed)
            plans.append(RunPlan(f'{variant.name}, seed {seed}', folder, config, key))
    return plans


def check_variants(study: Study) -> None:
    """Try every variant's overrides on its config, before anything is trained.

    Raises:
        ProblemsFound: If one does not fit.
    """
    problems: Sequence[Problem] = ()
    for variant in study.variants:
        try:
            variant_config(study, variant, study.seeds[0], '')
        except ProblemsFound as found:
            problems = [*problems, *found.problems]
    if problems:
        raise ProblemsFound(problems)


def lock_study(work_dir: Path) -> FolderLock:
    """Keep a second runner out of the folder.

    Raises:
        ProblemsFound: If there is one already.
    """
    lock = FolderLock(work_dir / LOCK_FILE)
    if not lock.acquire():
        what = f"another tools/run_study.py works in '{work_dir}'"
        raise ProblemsFound([Problem(what, 'wait for it, end it, or give another --work-dir')])
    return lock
