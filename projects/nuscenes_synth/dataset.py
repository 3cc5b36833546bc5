"""Write a whole synthetic dataset: many scenes in parallel, then the tables."""

import json
import multiprocessing
import os
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from .map_mask import write_map_mask
from .rig import CAMERAS, LIDAR
from .scene_writer import SceneWriter, plan_drive
from .settings import DatasetSettings, ScenePlan
from .tables import TABLE_NAMES, Row, make_token, shared_rows

SETTINGS_FILE = 'synthetic_nuscenes.json'
_UNFINISHED_FOLDER = '.unfinished'
_PART_SUFFIX = '.part'


class DatasetConflictError(RuntimeError):
    """The output folder holds something else than the dataset asked for."""


def is_complete(root: Path, settings: DatasetSettings) -> bool:
    """Whether ``root`` holds exactly the dataset that ``settings`` describe, finished.

    Raises:
        DatasetConflictError: If it holds other data; the message names the differing settings.
    """
    settings_path = root / SETTINGS_FILE
    if not settings_path.is_file():
        remains = {settings_path.name + _PART_SUFFIX}  # of a run killed at its very start
        if root.is_dir() and {path.name for path in root.iterdir()} - remains:
            raise DatasetConflictError(
                f'{root} holds files that this tool did not write (no {SETTINGS_FILE} there). '
                'Choose another --out, or empty that folder.'
            )
        return False
    stored = json.loads(settings_path.read_text())
    wanted = settings.to_record()
    if stored != wanted:
        differences = ', '.join(
            f'{key}: {stored.get(key)!r} there, {wanted.get(key)!r} asked for'
            for key in sorted(stored.keys() | wanted.keys())
            if stored.get(key) != wanted.get(key)
        )
        raise DatasetConflictError(
            f'{root} holds a synthetic dataset with other settings ({differences}). '
            'Choose another --out, or delete that folder.'
        )
    return (root / settings.version).is_dir()


def generate_dataset(
    root: Path, settings: DatasetSettings, workers: int = 1, show_progress: bool = True
) -> bool:
    """Write the dataset to ``root``; continue where an interrupted run stopped.

    The content depends on ``settings`` alone, not on ``workers``. The tables are put in place
    last and in one step, so a folder with tables is a finished dataset.

    Args:
        root: Output folder.
        settings: What to write.
        workers: Number of processes.
        show_progress: Show a progress bar on stderr.

    Returns:
        False if the finished dataset was there already and nothing was done, else True.

    Raises:
        DatasetConflictError: If ``root`` holds other data.
        ValueError: If ``workers`` is less than one.
    """
    if workers < 1:
        raise ValueError(f'workers must be at least 1, but is {workers}')
    unfinished = root / _UNFINISHED_FOLDER
    if is_complete(root, settings):
        shutil.rmtree(unfinished, ignore_errors=True)
        return False
    root.mkdir(parents=True, exist_ok=True)
    _write_json(root / SETTINGS_FILE, settings.to_record(), indent=1)
    unfinished.mkdir(exist_ok=True)
    for calibration in (*CAMERAS, LIDAR):
        (root / 'samples' / calibration.channel).mkdir(parents=True, exist_ok=True)
    (root / 'sweeps' / LIDAR.channel).mkdir(parents=True, exist_ok=True)

    plans = settings.scene_plans()
    missing = [plan for plan in plans if not _rows_path(root, plan).is_file()]
    _write_scenes(root, settings, missing, workers, show_progress)
    maps = _write_maps(root, settings, plans)
    _write_tables(root, settings, plans, maps)
    shutil.rmtree(unfinished)
    return True


def _write_scenes(
    root: Path,
    settings: DatasetSettings,
    plans: list[ScenePlan],
    workers: int,
    show_progress: bool,
) -> None:
    jobs = [(settings, plan, root) for plan in plans]
    with tqdm(total=len(jobs), desc='Scenes', unit='scene', disable=not show_progress) as progress:
        if workers == 1 or len(jobs) < 2:
            for job in jobs:
                _write_scene(job)
                progress.update()
            return
        # Spawned, not forked: a fork would inherit the ray caster's threads half-way.
        with ProcessPoolExecutor(
            min(workers, len(jobs)),
            mp_context=multiprocessing.get_context('spawn'),
            initializer=_end_with_parent,
        ) as pool:
            futures = [pool.submit(_write_scene, job) for job in jobs]
            try:
                for future in as_completed(futures):
                    future.result()
                    progress.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _end_with_parent() -> None:
    """End this worker when its parent is gone, however it went; a killed one cannot tell."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_scene(job: tuple[DatasetSettings, ScenePlan, Path]) -> None:
    settings, plan, root = job
    cv2.setNumThreads(0)
    rows = SceneWriter(settings, plan, root).write()
    _write_json(_rows_path(root, plan), rows)


def _rows_path(root: Path, plan: ScenePlan) -> Path:
    return root / _UNFINISHED_FOLDER / f'{plan.name}.json'


def _write_maps(root: Path, settings: DatasetSettings, plans: list[ScenePlan]) -> list[Row]:
    """Write one mask a location; return the rows of the table ``map`` without the logs."""
    (root / 'maps').mkdir(exist_ok=True)
    rows = []
    for location in dict.fromkeys(plan.location for plan in plans):
        token = make_token('map', settings.seed, location)
        roads = [plan_drive(settings, plan)[0] for plan in plans if plan.location == location]
        write_map_mask(root / 'maps' / f'{token}.png', roads)
        rows.append(
            {
                'token': token,
                'category': 'semantic_prior',
                'filename': f'maps/{token}.png',
                'location': location,
            }
        )
    return rows


def _write_tables(
    root: Path, settings: DatasetSettings, plans: list[ScenePlan], maps: list[Row]
) -> None:
    tables: dict[str, list[Row]] = {name: [] for name in TABLE_NAMES}
    tables.update(shared_rows())
    for plan in plans:
        for name, rows in json.loads(_rows_path(root, plan).read_text()).items():
            tables[name].extend(rows)
    for row in maps:
        location = row.pop('location')
        row['log_tokens'] = [log['token'] for log in tables['log'] if log['location'] == location]
        tables['map'].append(row)
    staging = root / _UNFINISHED_FOLDER / 'tables'
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    for name, rows in tables.items():
        _write_json(staging / f'{name}.json', rows)
    os.replace(staging, root / settings.version)


def _write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write a file in one step, so that a reader never sees half of it."""
    temporary = path.with_name(path.name + _PART_SUFFIX)
    temporary.write_text(json.dumps(content, indent=indent))
    os.replace(temporary, path)
