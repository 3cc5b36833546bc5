"""The ground-truth database for pasting: reading it, and whether it is complete.

A database is a pickle with, for each class name, a list of entries (what mmdet3d's converter
writes), each a dict with

- ``name``, ``path`` (points of the object, relative to the data root), ``box3d_lidar`` (7 or 9
  values, z at the bottom), ``num_points_in_gt``, ``difficulty``, and
- ``image_path``, only in the databases of this package and of the released CMT: the object cut
  out of an image, relative to the data root, ``''`` if no camera shows it.
"""

import itertools
import os.path as osp
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import mmengine
import numpy as np

from ..plain_pickle import InfoFileError, load_info_file
from ..problem import Problem
from .sensor_files import POINT_VALUES, SensorFile, faults_of_files

ENTRY_KEYS = ('name', 'path', 'box3d_lidar', 'num_points_in_gt', 'difficulty')
_FILES_LOOKED_AT = 8


def command_that_makes_it(data_root: str | None) -> str:
    """The command that writes the database of a data root, with image crops."""
    root = data_root or '<data root>'
    return (
        f'python tools/create_data.py nuscenes --root-path {root} --out-dir {root} '
        '--extra-tag nuscenes --image-crops'
    )


def read_database(
    info_path: str, data_root: str | None, backend_args: dict | None = None
) -> dict[str, list[dict]]:
    """Read a database; its files are not looked for.

    Args:
        info_path: The pickle, usually ``<data root>/nuscenes_dbinfos_train.pkl``.
        data_root: What paths in it are relative to, for the message.
        backend_args: Arguments of the mmengine file backend, None for local files.

    Raises:
        FileNotFoundError: If there is no such file.
        InfoFileError: If it cannot be read.
        ValueError: If it is no database.
    """
    remedy = f'Remedy: make the database (anew): {command_that_makes_it(data_root)}'
    if not mmengine.fileio.exists(info_path, backend_args=backend_args):
        raise FileNotFoundError(f"the database for pasting '{info_path}' does not exist. {remedy}")
    with mmengine.fileio.get_local_path(info_path, backend_args=backend_args) as local_path:
        infos = load_info_file(local_path)
    if not isinstance(infos, dict) or not all(isinstance(v, list) for v in infos.values()):
        raise ValueError(
            f"'{info_path}' is not a database for pasting (a dict from class name to a list of "
            f'entries). {remedy}'
        )
    return infos


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
        info_path: See :func:`read_database`.
        data_root: What paths in it are relative to; None: the current folder.
        classes: Classes that are to be pasted.
        image_crops: Whether crops are to be pasted into images.
        backend_args: Arguments of the mmengine file backend, None for local files.
        read_all: Also read every file of these classes, which must be local.

    Returns:
        What is wrong: the file, missing keys, boxes that are no boxes, missing or bad files.
        Without ``read_all`` files are looked for at a few places of each class.
    """
    try:
        infos = read_database(info_path, data_root, backend_args)
    except (OSError, InfoFileError, ValueError) as error:
        return [Problem.of_error(error)]
    entries = {name: infos.get(name, []) for name in classes}
    faults = list(entry_faults(entries, info_path, data_root, image_crops, backend_args))
    if not faults and read_all:
        every = itertools.chain.from_iterable(entries.values())
        named = files_of(every, data_root, image_crops)
        files = (SensorFile(Path(path), point_values) for path, point_values in named)
        faults = [f"'{path}' {fault}" for path, fault in faults_of_files(files).items()]
    remedy = f'make the database (anew): {command_that_makes_it(data_root)}'
    return [Problem(fault, remedy) for fault in faults]


def entry_faults(
    infos: Mapping[str, Sequence[Mapping]],
    info_path: str,
    data_root: str | None,
    image_crops: bool,
    backend_args: dict | None = None,
) -> Iterator[str]:
    """The first fault of each class of a database, a few of whose files are looked for.

    Args:
        infos: Entries of the classes that are to be pasted.
        info_path: The database, for the message.
        data_root: What paths in it are relative to; None: the current folder.
        image_crops: Whether crops are to be pasted into images.
        backend_args: Arguments of the mmengine file backend, None for local files.
    """
    for name, entries in infos.items():
        for number, entry in enumerate(entries):
            missing = [key for key in ENTRY_KEYS if key not in entry]
            if missing:
                yield f"'{info_path}': entry {number} of class {name} has no '{missing[0]}'"
                break
            box = np.asarray(entry['box3d_lidar'], dtype=np.float64)
            if not np.isfinite(box).all() or (box[3:6] <= 0).any():
                yield (
                    f"'{info_path}': entry {number} of class {name} has a box3d_lidar that is not "
                    f'finite or has no size: {box.tolist()}'
                )
                break
        else:
            spread = np.linspace(0, len(entries) - 1, min(len(entries), _FILES_LOOKED_AT))
            looked_at = [entries[int(number)] for number in spread]
            for path, _ in files_of(looked_at, data_root, image_crops):
                if not mmengine.fileio.exists(path, backend_args=backend_args):
                    yield f"'{info_path}' names '{path}', which does not exist"
                    break


def files_of(
    entries: Iterable[Mapping], data_root: str | None, image_crops: bool
) -> Iterator[tuple[str, int]]:
    """The files that entries name, and how many values each point in them has (0: an image)."""
    for entry in entries:
        yield osp.join(data_root or '', entry['path']), POINT_VALUES
        if image_crops and entry.get('image_path'):
            yield osp.join(data_root or '', entry['image_path']), 0


def has_image_crops(infos: Mapping[str, Sequence[Mapping]]) -> bool:
    """Whether any entry of a database has crops of images."""
    return any(entry.get('image_path') for entries in infos.values() for entry in entries)
