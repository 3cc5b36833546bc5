"""The ground-truth database for pasting: whether it is complete, and objects drawn from it."""

import os.path as osp
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import mmengine
import numpy as np
from mmdet3d.datasets.transforms import DataBaseSampler
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import BasePoints
from mmengine.logging import MMLogger

from ..plain_pickle import InfoFileError, load_info_file
from ..problem import Problem
from .box_overlap import overlap_on_ground
from .data_files import POINT_VALUES, SensorFile, faults_of_files, is_local
from .loading import read_image

_ENTRY_KEYS = ('name', 'path', 'box3d_lidar', 'num_points_in_gt', 'difficulty')
_FILES_LOOKED_AT = 8
_FILTERS = ('filter_by_difficulty', 'filter_by_min_points')
_POINTS_LOADER = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5)


class ObjectDatabase:
    """A pickle with a list of entries for each class name, as mmdet3d's converter writes it.

    Each has ``name``, ``path`` (points of the object, relative to the data root), ``box3d_lidar``
    (7 or 9 values, z at the bottom), ``num_points_in_gt`` and ``difficulty``; and in those of this
    package and of the released CMT ``image_path``: the object cut out of an image, ``''`` if no
    camera shows it.

    A FileNotFoundError, InfoFileError or ValueError is raised if there is no such file, if it
    cannot be read, or is no database; :attr:`remedy` is what to do.
    """

    def __init__(
        self, info_path: str, data_root: str | None, backend_args: dict | None = None
    ) -> None:
        self.info_path = info_path
        self.data_root = data_root or ''
        self.backend_args = backend_args
        root = data_root or '<data root>'
        self.remedy = (
            f'make the database (anew): python tools/create_data.py nuscenes --root-path {root} '
            f'--out-dir {root} --extra-tag nuscenes --image-crops'
        )
        if not mmengine.fileio.exists(info_path, backend_args=backend_args):
            what = f"the database for pasting '{info_path}' does not exist"
            raise FileNotFoundError(f'{what}. Remedy: {self.remedy}')
        with mmengine.fileio.get_local_path(info_path, backend_args=backend_args) as local_path:
            found = load_info_file(local_path)
        if not isinstance(found, dict) or not all(isinstance(v, list) for v in found.values()):
            what = 'is not a database for pasting (a dict from class name to a list of entries)'
            raise ValueError(f"'{info_path}' {what}. Remedy: {self.remedy}")
        self.entries: dict[str, list[dict]] = found

    def files(self, entries: Iterable[Mapping], image_crops: bool) -> dict[str, int]:
        """Files that entries name, and how many values each of their points has (0: an image)."""
        named = {entry['path']: POINT_VALUES for entry in entries}
        if image_crops:
            named |= {e['image_path']: 0 for e in entries if e.get('image_path')}
        return {osp.join(self.data_root, path): values for path, values in named.items()}

    def faults(self, classes: Iterable[str], image_crops: bool) -> list[str]:
        """The first fault of each class: a missing key, a bad box, a missing file.

        Files are looked for in a few places, those of ``image_crops`` only if they count.
        """
        first = (next(self._faults(self.entries.get(c, []), image_crops), None) for c in classes)
        return [f"'{self.info_path}'{fault}" for fault in first if fault]

    def _faults(self, entries: Sequence[Mapping], image_crops: bool) -> Iterator[str]:
        for entry in entries:
            which = f": the object '{entry.get('path', '?')}' of class {entry.get('name', '?')}"
            if missing := [key for key in _ENTRY_KEYS if key not in entry]:
                yield f"{which} has no '{missing[0]}'"
                return
            box = np.asarray(entry['box3d_lidar'], dtype=np.float64)
            if not np.isfinite(box).all() or (box[3:6] <= 0).any():
                what = 'a box3d_lidar that is not finite or has no size'
                yield f'{which} has {what}: {box.tolist()}'
        places = np.linspace(0, len(entries) - 1, min(len(entries), _FILES_LOOKED_AT))
        for path in self.files([entries[int(place)] for place in places], image_crops):
            if not mmengine.fileio.exists(path, backend_args=self.backend_args):
                yield f" names '{path}', which does not exist"


def check_database(pasting: Mapping, read_all: bool = False) -> list[Problem]:
    """Look through the database of a transform that pastes, with whatever ``db_sampler``.

    ``read_all``: also read every file of the classes that it pastes, if they are local.
    """
    sampler, image_crops = pasting['db_sampler'], bool(pasting.get('sample_2d'))
    if 'info_path' not in sampler:  # one of the user's, whose objects are elsewhere
        return []
    backend_args, classes = sampler.get('backend_args'), list(sampler.get('classes', ()))
    try:
        database = ObjectDatabase(sampler['info_path'], sampler.get('data_root'), backend_args)
    except (OSError, InfoFileError, ValueError) as error:
        return [Problem.of_error(error)]
    faults = database.faults(classes, image_crops)
    if not faults and read_all and is_local(backend_args):
        entries = [entry for name in classes for entry in database.entries.get(name, ())]
        files = database.files(entries, image_crops)
        bad = faults_of_files(SensorFile(Path(path), values) for path, values in files.items())
        faults = [f"'{path}' {fault}" for path, fault in bad.items()]
    return [Problem(fault, database.remedy) for fault in faults]


@TRANSFORMS.register_module()
class UnifiedDataBaseSampler(ObjectDatabase):
    """Draw objects of each class until the scene has as many as wished, without collisions.

    Keyword arguments and filters are those of the released class and of mmdet3d's
    ``DataBaseSampler``. Not a subclass of the latter: that one fails with numpy 1.24-1.26 (it uses
    ``np.long``), and walks through a list shuffled when the dataset was built, so that every
    worker pastes the same objects in the same order, and starts over in each epoch. Here each
    draw is made from numpy's global random numbers and nothing is remembered.

    Args:
        rate: Share of the missing number of objects that is drawn.
        prepare: Filters and their argument: ``filter_by_difficulty`` (list of difficulties to
            drop), ``filter_by_min_points`` (least number of points for each class).
        sample_groups: For each class the number of objects that a scene is filled up to.
        classes: All class names, in the order of the labels.
        points_loader: Config of the transform that loads an object's points, 5 values each.

    Raises:
        ValueError: If the database names files that do not exist, or an argument an unknown name.
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
        if unknown := set(sample_groups) - set(classes):
            raise ValueError(f'sample_groups has {sorted(unknown)}, which are not in classes')
        super().__init__(info_path, data_root, backend_args)
        if faults := self.faults(sample_groups, image_crops=True):
            raise ValueError('\n'.join(faults) + f'. Remedy: {self.remedy}')
        self.rate = rate
        self.label_of = {name: label for label, name in enumerate(classes)}
        self.points_loader = TRANSFORMS.build(points_loader or _POINTS_LOADER)
        unfiltered = self.entries
        self.has_image_crops = any(e.get('image_path') for e in chain(*unfiltered.values()))
        for name, argument in prepare.items():
            if name not in _FILTERS:
                raise ValueError(f"prepare has '{name}'; known are {', '.join(_FILTERS)}")
            if name == 'filter_by_min_points':
                # A class may be absent: nuScenes-mini does not have all of them.
                argument = {key: n for key, n in argument.items() if key in self.entries}
            self.entries = getattr(DataBaseSampler, name)(dict(self.entries), argument)
        logger = MMLogger.get_current_instance()
        sizes = ((name, len(self.entries[name]), len(all_)) for name, all_ in unfiltered.items())
        counts = ', '.join(f'{name} {left} of {number}' for name, left, number in sizes)
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

        Takes the scene's boxes (N, 7 or 9; x, y, z bottom, sizes, yaw and maybe velocity; metres,
        LiDAR frame) and labels (N,). Returns the entries of M objects and their boxes (M, 7 or 9).
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
        path = osp.join(self.data_root, entry['path'])
        points = self.points_loader(dict(lidar_points=dict(lidar_path=path)))['points']
        points.translate(entry['box3d_lidar'][:3])
        return points

    def load_image_crop(self, entry: Mapping) -> np.ndarray:
        """Read the crop (h, w, 3) of an object, uint8 BGR."""
        return read_image(osp.join(self.data_root, entry['image_path']), self.backend_args)
