"""Convert a nuScenes dataset to mmdet3d's info files and database, with mmdet3d's converter.

mmdet3d 1.4 ships its converter inside the wheel, as scripts under ``mmdet3d/.mim/tools``. They
assume ``./data/nuscenes`` and 1600 x 900 images in places; what is replaced here while they run,
and why, stands at :func:`_prepared_converter`.
"""

import contextlib
import functools
import importlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mmdet3d
import mmengine
import torch
from mmdet3d.datasets import convert_utils
from mmdet3d.registry import DATASETS
from mmengine.registry import DefaultScope
from nuscenes import NuScenes, nuscenes
from nuscenes.utils.splits import create_splits_scenes
from tqdm import tqdm

from .nuscenes_layout import CONVERTED_SPLITS, NUSCENES_TABLES
from .object_image_crops import add_image_crops
from .sweep_loading import LoadAlignedSweeps

VERSIONS = tuple(CONVERTED_SPLITS)
MAX_SWEEPS = 10
_STAGING_FOLDER = '.unfinished_conversion'
_CAMERA_FOLDERS = (
    'CAM_FRONT',
    'CAM_FRONT_RIGHT',
    'CAM_FRONT_LEFT',
    'CAM_BACK',
    'CAM_BACK_LEFT',
    'CAM_BACK_RIGHT',
)


class DatasetLayoutError(RuntimeError):
    """A dataset folder lacks something that the conversion needs."""


def convert_nuscenes(
    root: Path,
    out_dir: Path,
    prefix: str = 'nuscenes',
    version: str = 'v1.0-trainval',
    max_sweeps: int = MAX_SWEEPS,
    image_crops: bool = True,
    workers: int = 1,
) -> dict[str, int]:
    """Write ``<prefix>_infos_{train,val}.pkl`` and the database for pasting.

    Of v1.0-test, which has no annotations, only ``<prefix>_infos_test.pkl``. Everything is written
    to a temporary folder first and moved to ``out_dir`` at the end, ``<prefix>_dbinfos_train.pkl``
    last.

    Args:
        root: Dataset folder with ``samples/``, ``sweeps/``, ``maps/`` and the tables.
        out_dir: Output folder; configs expect the same as ``root``.
        prefix: Start of the output names.
        version: Name of the tables' folder.
        max_sweeps: Number of past LiDAR sweeps listed for a sample.
        image_crops: Also cut the database's objects out of the images.
        workers: Number of processes for the slowest step, projecting all boxes.

    Returns:
        Number of samples of each info file, of database ``objects`` and of image ``crops``.

    Raises:
        DatasetLayoutError: If the dataset is incomplete; the message names the remedy.
    """
    check_layout(root, version)
    out_dir.mkdir(parents=True, exist_ok=True)
    tables = NuScenes(version=version, dataroot=str(root), verbose=False)
    staging = out_dir.resolve() / _STAGING_FOLDER
    shutil.rmtree(staging, ignore_errors=True)  # what a killed run left
    staging.mkdir()
    try:
        with _prepared_converter(tables) as converter:
            counts = _write_infos(
                converter, tables, root, staging, prefix, version, max_sweeps, workers
            )
            splits = list(counts)
            counts.update(objects=0, crops=0)
            if 'train' in splits:
                counts['objects'] = _write_database(converter, root, staging, prefix)
        if image_crops and counts['objects']:
            counts['crops'] = add_image_crops(
                staging / f'{prefix}_dbinfos_train.pkl',
                staging / f'{prefix}_infos_train.pkl',
                root,
                staging,
            )
        _publish(staging, out_dir, prefix, splits)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return counts


def check_layout(root: Path, version: str) -> None:
    """Check that the folders of a nuScenes dataset are there.

    Raises:
        DatasetLayoutError: Naming what is missing and what to do.
    """
    if version not in VERSIONS:
        raise DatasetLayoutError(f'--version must be one of {", ".join(VERSIONS)}: {version!r}')
    if not root.is_dir():
        raise DatasetLayoutError(
            f'The dataset folder {root} does not exist. Unpack nuScenes there, link it there, or '
            f'write a synthetic one: python tools/create_synthetic_nuscenes.py --out {root}'
        )
    tables = root / version
    missing = [name for name in NUSCENES_TABLES if not (tables / f'{name}.json').is_file()]
    if missing:
        present = sorted(path.name for path in root.glob('v1.0-*') if path.is_dir())
        if tables.is_dir():
            hint = (
                f'The folder is there, but {missing[0]}.json is not in it: unpack the metadata '
                'archive again.'
            )
        elif present:
            hint = f'Found {", ".join(present)}: pass --version, or the root that holds {version}.'
        else:
            hint = (
                'Unpack the metadata archive of nuScenes there (it holds this folder), or pass '
                'as --root-path the folder that has samples/, sweeps/, maps/ and v1.0-*/.'
            )
        raise DatasetLayoutError(f'No nuScenes tables in {tables}. {hint}')
    for folder in ('maps', 'samples/LIDAR_TOP', *(f'samples/{name}' for name in _CAMERA_FOLDERS)):
        if not (root / folder).is_dir():
            raise DatasetLayoutError(
                f'{root / folder} is missing. Unpack all archives of {version} into {root}.'
            )
    _check_scenes(root, version)
    _check_maps(root, version)


def _check_scenes(root: Path, version: str) -> None:
    """Refuse a split without a scene, on which the converter fails without a reason."""
    names = {scene['name'] for scene in json.loads((root / version / 'scene.json').read_text())}
    for official in CONVERTED_SPLITS[version].values():
        if not names.intersection(create_splits_scenes()[official]):
            raise DatasetLayoutError(
                f'{root / version} has no scene of the official split {official}; '
                'each split of a version needs one. Is --version right?'
            )


def _check_maps(root: Path, version: str) -> None:
    """Name a missing map, without which the devkit does not load the tables."""
    for record in json.loads((root / version / 'map.json').read_text()):
        path = root / record['filename']
        if not path.is_file():
            raise DatasetLayoutError(
                f'The map {path} is missing. Unpack the maps of nuScenes into {root}.'
            )


def _converter_folder() -> Path:
    """The folder of mmdet3d's scripts: inside the wheel, or beside a source checkout."""
    package = Path(mmdet3d.__file__).parent
    for folder in (package / '.mim' / 'tools', package.parent / 'tools'):
        if (folder / 'dataset_converters' / 'nuscenes_converter.py').is_file():
            return folder
    raise DatasetLayoutError(
        f'mmdet3d at {package} carries no tools/dataset_converters. Install it from its wheel: '
        'pip install mmdet3d==1.4.0'
    )


class _Converter:
    """The modules of mmdet3d's converter."""

    def __init__(self) -> None:
        folder = str(_converter_folder())
        sys.path.insert(0, folder)
        try:
            self.infos = importlib.import_module('dataset_converters.nuscenes_converter')
            self.update = importlib.import_module('dataset_converters.update_infos_to_v2')
            self.database = importlib.import_module('dataset_converters.create_gt_database')
        finally:
            sys.path.remove(folder)


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


@contextlib.contextmanager
def _prepared_converter(tables: NuScenes) -> Iterator[_Converter]:
    """Give the converter with some things replaced while it runs.

    - It loads the tables three times, twice from ``./data/nuscenes`` whatever the root: it gets
      the tables that are loaded already.
    - It clips projected boxes to 1600 x 900 pixels: it gets the images' own size.
    - It reads the database's points with a loader that misplaces sweeps of a turning vehicle: it
      gets :class:`LoadAlignedSweeps`.
    - It builds mmdet3d classes by name, which needs mmdet3d as default scope.
    """

    def loaded_tables(*_args: Any, **_keywords: Any) -> NuScenes:
        return tables

    camera = next(row for row in tables.sample_data if row['fileformat'] == 'jpg')
    clip = functools.partial(
        convert_utils.post_process_coords, imsize=(camera['width'], camera['height'])
    )
    converter = _Converter()

    def dataset_with_aligned_sweeps(config: dict) -> Any:
        for step in config['pipeline']:
            if step['type'] == 'LoadPointsFromMultiSweeps':
                step['type'] = LoadAlignedSweeps
        return DATASETS.build(config)

    with (
        DefaultScope.overwrite_default_scope('mmdet3d'),
        _replaced(nuscenes, 'NuScenes', loaded_tables),
        _replaced(converter.update, 'NuScenes', loaded_tables),
        _replaced(convert_utils, 'post_process_coords', clip),
        _replaced(
            converter.database, 'DATASETS', SimpleNamespace(build=dataset_with_aligned_sweeps)
        ),
    ):
        yield converter


def _write_infos(
    converter: _Converter,
    tables: NuScenes,
    root: Path,
    staging: Path,
    prefix: str,
    version: str,
    max_sweeps: int,
    workers: int,
) -> dict[str, int]:
    """Write both info files in the v1.1 format; return their numbers of samples."""
    # The converter joins root and prefix; an absolute prefix puts its output elsewhere.
    converter.infos.create_nuscenes_infos(
        str(root), str(staging / prefix), version=version, max_sweeps=max_sweeps
    )
    counts = {}
    for split in CONVERTED_SPLITS[version]:
        path = staging / f'{prefix}_infos_{split}.pkl'
        projected = _project_instances(
            converter.update.generate_nuscenes_camera_instances,
            tables,
            mmengine.load(path)['infos'],
            workers,
        )

        def look_up(info: dict, _tables: NuScenes, projected: dict[str, dict] = projected) -> dict:
            return projected[info['token']]

        with _replaced(converter.update, 'generate_nuscenes_camera_instances', look_up):
            converter.update.update_pkl_infos('nuscenes', out_dir=str(staging), pkl_path=str(path))
        infos = mmengine.load(path)
        _shorten_sweep_paths(infos)
        mmengine.dump(infos, path)
        counts[split] = len(infos['data_list'])
    return counts


def _project_instances(
    project: Callable[[dict, NuScenes], dict], tables: NuScenes, infos: list[dict], workers: int
) -> dict[str, dict]:
    """Project the boxes of each sample into its cameras; results by sample token.

    This is the converter's slowest step, and the only one worth several processes.
    """
    progress = functools.partial(tqdm, total=len(infos), desc='2D boxes', unit='sample')
    if workers > 1 and 'fork' in multiprocessing.get_all_start_methods():
        # Forked, the workers share the tables, which take gigabytes for the whole of nuScenes.
        context = multiprocessing.get_context('fork')
        with context.Pool(workers, _set_projection, (project, tables)) as pool:
            results = list(progress(pool.imap(_apply_projection, infos, chunksize=4)))
    else:
        results = list(progress(project(info, tables) for info in infos))
    return {info['token']: result for info, result in zip(infos, results, strict=True)}


_projection: tuple[Callable[[dict, NuScenes], dict], NuScenes] | None = None


def _set_projection(project: Callable[[dict, NuScenes], dict], tables: NuScenes) -> None:
    """Start a worker process: keep what all its tasks share."""
    global _projection
    torch.set_num_threads(1)
    _projection = (project, tables)


def _apply_projection(info: dict) -> dict:
    assert _projection is not None, 'runs in workers started with _set_projection'
    project, tables = _projection
    return project(info, tables)


def _shorten_sweep_paths(infos: dict) -> None:
    """Make sweep paths relative to the dataset folder, in place.

    mmdet3d takes any sweep with ``samples`` in its path for a keyframe, so a dataset below a
    folder of that name could not be read with the full paths that its converter stores.
    """
    for sample in infos['data_list']:
        for sweep in sample.get('lidar_sweeps', ()):
            points = sweep['lidar_points']
            points['lidar_path'] = '/'.join(Path(points['lidar_path']).parts[-3:])


def _write_database(converter: _Converter, root: Path, staging: Path, prefix: str) -> int:
    """Write the points of all training objects and their list; return their number."""
    database_path = staging / f'{prefix}_dbinfos_train.pkl'
    # The converter names an object by indexing the classes with its label, so those of no class,
    # whose label is -1, would enter the database under the last class: debris as barriers.
    infos = mmengine.load(staging / f'{prefix}_infos_train.pkl')
    for sample in infos['data_list']:
        sample['instances'] = [row for row in sample['instances'] if row['bbox_label_3d'] >= 0]
    classified_path = staging / f'{prefix}_infos_train_classified.pkl'
    mmengine.dump(infos, classified_path)
    converter.database.create_groundtruth_database(
        'NuScenesDataset',
        str(root),
        prefix,
        str(classified_path),
        database_save_path=str(staging / f'{prefix}_gt_database'),
        db_info_save_path=str(database_path),
    )
    return sum(len(entries) for entries in mmengine.load(database_path).values())


def _publish(staging: Path, out_dir: Path, prefix: str, splits: Sequence[str]) -> None:
    """Move the finished files to their place, the list of the database last."""
    names = [f'{prefix}_infos_{split}.pkl' for split in splits]
    if 'train' in splits:
        database_folder, list_name = f'{prefix}_gt_database', f'{prefix}_dbinfos_train.pkl'
        (out_dir / list_name).unlink(missing_ok=True)
        shutil.rmtree(out_dir / database_folder, ignore_errors=True)
        names += [database_folder, list_name]
    for name in names:
        os.replace(staging / name, out_dir / name)
