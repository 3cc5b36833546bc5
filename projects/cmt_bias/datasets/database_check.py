"""Is the ground-truth database for pasting complete? Asked before training, not during it.

A database is a pickle with, for each class name, a list of entries (what mmdet3d's converter
writes), each a dict with

- ``name``, ``path`` (points of the object, relative to the data root), ``box3d_lidar`` (7 or 9
  values, z at the bottom), ``num_points_in_gt``, ``difficulty``, and
- ``image_path``, only in the databases of this package and of the released CMT: the object cut
  out of an image, relative to the data root, ``''`` if no camera shows it.
"""

import os.path as osp
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import mmengine
import numpy as np

from ..plain_pickle import InfoFileError, load_info_file
from ..problem import Problem
from .sensor_files import POINT_VALUES, SensorFile, faults_of_files

ENTRY_KEYS = ('name', 'path', 'box3d_lidar', 'num_points_in_gt', 'difficulty')
_FILES_LOOKED_AT = 8
_NOT_A_DATABASE = 'it is not a database for pasting (a dict from class name to a list of entries)'


def command_that_makes_it(data_root: str | None) -> str:
    """The command that writes the database of a data root, with image crops."""
    root = data_root or '<data root>'
    return (
        f'python tools/create_data.py nuscenes --root-path {root} --out-dir {root} '
        '--extra-tag nuscenes --image-crops'
    )


def check_database(
    info_path: str,
    data_root: str | None,
    classes: Iterable[str] = (),
    image_crops: bool = False,
    backend_args: dict | None = None,
    read_all: bool = False,
) -> list[Problem]:
    """Look through a database for pasting.

    Args:
        info_path: The pickle, usually ``<data root>/nuscenes_dbinfos_train.pkl``.
        data_root: What paths in it are relative to; None: the current folder.
        classes: Classes that are to be pasted.
        image_crops: Whether crops are to be pasted into images.
        backend_args: Arguments of the mmengine file backend, None for local files.
        read_all: Also read every file of these classes, which must be local.

    Returns:
        What is wrong: the file, missing keys, boxes that are no boxes, missing or bad files.
        Without ``read_all`` files are looked for at a few places of each class.
    """
    problems = check_database_file(info_path, data_root, backend_args)
    if problems:
        return problems
    try:
        with mmengine.fileio.get_local_path(info_path, backend_args=backend_args) as local_path:
            infos = load_info_file(local_path)
    except (OSError, InfoFileError) as error:
        what, _, remedy = str(error).partition('Remedy: ')
        return [Problem(f'the database {what.strip()}', remedy or _remedy(data_root))]
    classes = list(classes)
    problems = check_database_entries(
        infos, info_path, data_root, classes, image_crops, backend_args
    )
    if problems or not read_all:
        return problems
    files = []
    for entry in (entry for name in classes for entry in infos.get(name, ())):
        files.append(SensorFile(Path(data_root or '.') / entry['path'], POINT_VALUES))
        if image_crops and entry.get('image_path'):
            files.append(SensorFile(Path(data_root or '.') / entry['image_path']))
    return [
        Problem(f"'{path}' {fault}", _remedy(data_root))
        for path, fault in faults_of_files(files).items()
    ]


def check_database_file(
    info_path: str, data_root: str | None, backend_args: dict | None = None
) -> list[Problem]:
    """Whether the file of a database for pasting is there at all."""
    if mmengine.fileio.exists(info_path, backend_args=backend_args):
        return []
    return [Problem(f"the database for pasting '{info_path}' does not exist", _remedy(data_root))]


def check_database_entries(
    infos: object,
    info_path: str,
    data_root: str | None,
    classes: Iterable[str] = (),
    image_crops: bool = False,
    backend_args: dict | None = None,
) -> list[Problem]:
    """As :func:`check_database`, for a database that has been read already."""
    remedy = _remedy(data_root)
    if not isinstance(infos, Mapping) or not all(isinstance(v, list) for v in infos.values()):
        return [Problem(f"'{info_path}': {_NOT_A_DATABASE}", remedy)]
    problems = []
    for name in classes:
        entries = infos.get(name, [])
        fault = _first_fault(entries)
        if fault is not None:
            problems.append(Problem(f"'{info_path}': {fault}", remedy))
            continue
        missing_file = _first_missing_file(entries, data_root, image_crops, backend_args)
        if missing_file is not None:
            problems.append(
                Problem(f"'{info_path}' names '{missing_file}', which does not exist", remedy)
            )
    return problems


def has_image_crops(infos: Mapping[str, Sequence[Mapping]]) -> bool:
    """Whether any entry of a database has crops of images."""
    return any(entry.get('image_path') for entries in infos.values() for entry in entries)


def _remedy(data_root: str | None) -> str:
    return f'make the database (anew): {command_that_makes_it(data_root)}'


def _first_fault(entries: Sequence[Mapping]) -> str | None:
    """The first entry that lacks a key, or whose box is not one."""
    for number, entry in enumerate(entries):
        which = f'entry {number} of class {entry.get("name", "?")}'
        for key in ENTRY_KEYS:
            if key not in entry:
                return f"{which} has no '{key}'"
        box = np.asarray(entry['box3d_lidar'], dtype=np.float64)
        if not np.isfinite(box).all() or (box[3:6] <= 0).any():
            return f'{which} has a box3d_lidar that is not finite or has no size: {box.tolist()}'
    return None


def _first_missing_file(
    entries: Sequence[Mapping],
    data_root: str | None,
    image_crops: bool,
    backend_args: dict | None,
) -> str | None:
    """The first of a few evenly spread files that does not exist."""
    if not entries:
        return None
    spread = np.linspace(0, len(entries) - 1, min(len(entries), _FILES_LOOKED_AT)).astype(int)
    for number in spread:
        paths = [entries[number]['path']]
        if image_crops and entries[number].get('image_path'):
            paths.append(entries[number]['image_path'])
        for path in paths:
            full_path = osp.join(data_root, path) if data_root else path
            if not mmengine.fileio.exists(full_path, backend_args=backend_args):
                return full_path
    return None
