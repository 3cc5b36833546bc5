"""The ground-truth database for pasting: whether it is complete, and objects drawn from it."""

import os.path as osp
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import mmcv
import mmengine
import numpy as np
from mmdet3d.datasets.transforms import DataBaseSampler
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import BasePoints
from mmengine.logging import MMLogger

from ..plain_pickle import InfoFileError, load_info_file
from ..problem import Problem
from .box_overlap import overlap_on_ground
from .sensor_files import POINT_VALUES, SensorFile, faults_of_files, is_local

_ENTRY_KEYS = ('name', 'path', 'box3d_lidar', 'num_points_in_gt', 'difficulty')
_FILES_LOOKED_AT = 8
_POINTS_LOADER = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5)


def command_that_makes_it(data_root: str | None) -> str:
    """The command that writes the database of a data root, with image crops."""
    root = data_root or '<data root>'
    return (
        f'python tools/create_data.py nuscenes --root-path {root} --out-dir {root} '
        '--extra-tag nuscenes --image-crops'
    )


def has_image_crops(entries: Mapping[str, Sequence[Mapping]]) -> bool:
    """Whether any entry of a database has crops of images."""
    return any(entry.get('image_path') for found in entries.values() for entry in found)


class ObjectDatabase:
    """A pickle with, for each class name, a list of entries (what mmdet3d's converter writes).

    Each is a dict with ``name``, ``path`` (points of the object, relative to the data root),
    ``box3d_lidar`` (7 or 9 values, z at the bottom), ``num_points_in_gt`` and ``difficulty``; and
    in the databases of this package and of the released CMT ``image_path``: the object cut out of
    an image, relative to the data root, ``''`` if no camera shows it.

    Args:
        info_path: The pickle, usually ``<data root>/nuscenes_dbinfos_train.pkl``.
        data_root: What paths in it are relative to; None: the current folder.
        backend_args: Arguments of the mmengine file backend, None for local files.

    Attributes:
        entries: The entries by class name.
        remedy: What to do if anything is wrong with it.

    Raises:
        FileNotFoundError: If there is no such file.
        InfoFileError: If it cannot be read.
        ValueError: If it is no database.
    """

    def __init__(
        self, info_path: str, data_root: str | None, backend_args: dict | None = None
    ) -> None:
        self.info_path = info_path
        self.data_root = data_root
        self.backend_args = backend_args
        self.remedy = f'make the database (anew): {command_that_makes_it(data_root)}'
        if not mmengine.fileio.exists(info_path, backend_args=backend_args):
            what = f"the database for pasting '{info_path}' does not exist"
            raise FileNotFoundError(f'{what}. Remedy: {self.remedy}')
        with mmengine.fileio.get_local_path(info_path, backend_args=backend_args) as local_path:
            found = self.entries = load_info_file(local_path)
        if not isinstance(found, dict) or not all(isinstance(v, list) for v in found.values()):
            what = 'is not a database for pasting (a dict from class name to a list of entries)'
            raise ValueError(f"'{info_path}' {what}. Remedy: {self.remedy}")

    def full_path(self, path: str) -> str:
        """Where a file lies that an entry names."""
        return osp.join(self.data_root or '', path)

    def files(self, entries: Iterable[Mapping], image_crops: bool) -> Iterator[tuple[str, int]]:
        """Files that entries name, and how many values each of their points has (0: an image)."""
        for entry in entries:
            yield self.full_path(entry['path']), POINT_VALUES
            if image_crops and entry.get('image_path'):
                yield self.full_path(entry['image_path']), 0

    def faults(self, classes: Iterable[str], image_crops: bool) -> Iterator[str]:
        """The first fault of each of some classes: a missing key, a bad box, a missing file.

        Args:
            classes: Those that are to be pasted.
            image_crops: Whether files of image crops count; files are looked for in a few places.
        """
        for name in classes:
            entries = self.entries.get(name, [])
            fault = next(filter(None, map(_fault_of_entry, entries)), None)
            if fault:
                yield f"'{self.info_path}': {fault}"
                continue
            places = np.linspace(0, len(entries) - 1, min(len(entries), _FILES_LOOKED_AT))
            for path, _ in self.files((entries[int(place)] for place in places), image_crops):
                if not mmengine.fileio.exists(path, backend_args=self.backend_args):
                    yield f"'{self.info_path}' names '{path}', which does not exist"
                    break


def _fault_of_entry(entry: Mapping) -> str | None:
    which = f"the object '{entry.get('path', '?')}' of class {entry.get('name', '?')}"
    for key in _ENTRY_KEYS:
        if key not in entry:
            return f"{which} has no '{key}'"
    box = np.asarray(entry['box3d_lidar'], dtype=np.float64)
    if not np.isfinite(box).all() or (box[3:6] <= 0).any():
        return f'{which} has a box3d_lidar that is not finite or has no size: {box.tolist()}'
    return None


def check_database(pasting: Mapping, read_all: bool = False) -> list[Problem]:
    """Look through the database of a transform that pastes.

    Args:
        pasting: Config of the transform, with its ``db_sampler``.
        read_all: Also read every file of the classes that it pastes, if they are local.
    """
    sampler, image_crops = pasting['db_sampler'], bool(pasting.get('sample_2d'))
    backend_args, classes = sampler.get('backend_args'), list(sampler.get('classes', ()))
    try:
        database = ObjectDatabase(sampler['info_path'], sampler.get('data_root'), backend_args)
    except (OSError, InfoFileError, ValueError) as error:
        return [Problem.of_error(error)]
    faults = list(database.faults(classes, image_crops))
    if not faults and read_all and is_local(backend_args):
        entries = (entry for name in classes for entry in database.entries.get(name, ()))
        files = database.files(entries, image_crops)
        bad = faults_of_files(SensorFile(Path(path), values) for path, values in files)
        faults = [f"'{path}' {fault}" for path, fault in bad.items()]
    return [Problem(fault, database.remedy) for fault in faults]


@TRANSFORMS.register_module()
class UnifiedDataBaseSampler(ObjectDatabase):
    """Draw objects of each class until the scene has as many as wished, without collisions.

    Keyword arguments as the released class and mmdet3d's ``DataBaseSampler`` have them, and the
    same filters. Not a subclass of the latter: that one fails with numpy 1.24-1.26 (it uses
    ``np.long``), and walks through a list shuffled when the dataset was built, so that every
    worker pastes the same objects in the same order, and starts over in each epoch. Here each
    draw is made from numpy's global random numbers and nothing is remembered.

    Args:
        info_path: See :class:`ObjectDatabase`, as for ``data_root`` and ``backend_args``.
        rate: Share of the missing number of objects that is drawn.
        prepare: Filters and their argument: ``filter_by_difficulty`` (list of difficulties to
            drop), ``filter_by_min_points`` (least number of points for each class).
        sample_groups: For each class the number of objects that a scene is filled up to.
        classes: All class names, in the order of the labels.
        points_loader: Config of the transform that loads an object's points; 5 values a point by
            default.

    Raises:
        ValueError: If the database names files that do not exist, or a name in ``prepare`` or
            ``sample_groups`` is unknown.
    """

    def __init__(
        self,
        info_path: str,
        data_root: str | None,
        rate: float,
        prepare: Mapping,
        sample_groups: Mapping[str, int],
        classes: Sequence[str],
        points_loader: dict | None = None,
        backend_args: dict | None = None,
    ) -> None:
        unknown = set(sample_groups) - set(classes)
        if unknown:
            raise ValueError(f'sample_groups has {sorted(unknown)}, which are not in classes')
        super().__init__(info_path, data_root, backend_args)
        faults = list(self.faults(sample_groups, image_crops=True))
        if faults:
            raise ValueError('\n'.join((*faults, self.remedy)))
        self.rate = rate
        self.label_of = {name: label for label, name in enumerate(classes)}
        self.points_loader = TRANSFORMS.build(points_loader or _POINTS_LOADER)
        self.has_image_crops = has_image_crops(self.entries)
        numbers = {name: len(found) for name, found in self.entries.items()}
        self._filter(prepare)
        logger = MMLogger.get_current_instance()
        counts = ', '.join(f'{n} {len(self.entries[n])} of {numbers[n]}' for n in numbers)
        logger.info(f'Objects for pasting from {info_path}, after filtering: {counts}')
        empty = [name for name in sample_groups if not self.entries.get(name)]
        if empty:
            logger.warning(
                f'No object of {", ".join(empty)} will be pasted: {info_path} has none (left)'
            )
        self.sample_groups = {n: int(k) for n, k in sample_groups.items() if n not in empty}

    def sample_all(
        self, gt_boxes: np.ndarray, gt_labels: np.ndarray
    ) -> tuple[list[Mapping], np.ndarray]:
        """Draw objects that collide neither with the scene nor with each other.

        Args:
            gt_boxes: (N, 7 or 9) x, y, z bottom, sizes, yaw and maybe velocity of the scene's
                boxes; metres, LiDAR frame.
            gt_labels: (N,) their class numbers.

        Returns:
            The entries of M drawn objects and their boxes (M, 7 or 9), of the same dtype.
        """
        drawn: list[Mapping] = []
        taken, width = gt_boxes, gt_boxes.shape[1]
        for name, wanted in self.sample_groups.items():
            present = int(np.sum(gt_labels == self.label_of[name]))
            number = int(np.round(self.rate * (wanted - present)))
            pool = self.entries[name]
            for index in np.random.randint(len(pool), size=max(number, 0)):
                box = np.array(pool[index]['box3d_lidar'][:width], dtype=gt_boxes.dtype)
                if len(box) < width:
                    raise ValueError(
                        f"boxes of '{self.info_path}' have {len(box)} values, those of the "
                        f'dataset {width}; {self.remedy}'
                    )
                if not overlap_on_ground(box, taken).any():  # one drawn twice fits only once
                    drawn.append(pool[index])
                    taken = np.concatenate([taken, box[None]])
        return drawn, taken[len(gt_boxes) :]

    def load_points(self, entry: Mapping) -> BasePoints:
        """Read the points of an object, in the LiDAR frame."""
        path = self.full_path(entry['path'])
        points = self.points_loader(dict(lidar_points=dict(lidar_path=path)))['points']
        points.translate(entry['box3d_lidar'][:3])
        return points

    def load_image_crop(self, path: str) -> np.ndarray:
        """Read a crop (h, w, 3), uint8 BGR, that an entry names.

        Raises:
            ValueError: If the file is not an image that can be decoded.
        """
        encoded = mmengine.fileio.get(self.full_path(path), backend_args=self.backend_args)
        crop = mmcv.imfrombytes(encoded, flag='color')
        if crop is None:
            what = f"'{self.full_path(path)}' ({len(encoded)} bytes) is not a readable image"
            raise ValueError(f'objects for pasting: {what}; {self.remedy}')
        return crop

    def _filter(self, prepare: Mapping) -> None:
        for name, argument in prepare.items():
            if name not in ('filter_by_difficulty', 'filter_by_min_points'):
                raise ValueError(
                    f"prepare has '{name}'; known are filter_by_difficulty, filter_by_min_points"
                )
            if name == 'filter_by_min_points':
                # A class may be absent: nuScenes-mini does not have all of them.
                argument = {key: n for key, n in argument.items() if key in self.entries}
            self.entries = getattr(DataBaseSampler, name)(dict(self.entries), argument)
