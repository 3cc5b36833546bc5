"""Draw objects of a ground-truth database that fit into a scene."""

import os.path as osp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mmcv
import mmengine
import numpy as np
from mmdet3d.datasets.transforms import DataBaseSampler
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import BasePoints
from mmengine.logging import MMLogger

from .box_overlap import overlap_on_ground
from .database_check import (
    check_database_entries,
    check_database_file,
    command_that_makes_it,
    has_image_crops,
)

_POINTS_LOADER = dict(
    type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=[0, 1, 2, 3, 4]
)


@dataclass(frozen=True)
class SampledObjects:
    """Objects to be pasted into a scene.

    Attributes:
        boxes: (M, 7 or 9) x, y, z bottom, sizes, yaw and maybe velocity; metres, LiDAR frame.
        labels: (M,) class numbers, int64.
        points: The points of all objects, in the LiDAR frame.
        points_object: (P,) which of the M objects each point belongs to, int64.
        entries: The M database entries.
    """

    boxes: np.ndarray
    labels: np.ndarray
    points: BasePoints
    points_object: np.ndarray
    entries: list[Mapping]


@TRANSFORMS.register_module()
class UnifiedDataBaseSampler:
    """Draw objects of each class until the scene has as many as wished, without collisions.

    Keyword arguments as the released class and mmdet3d's ``DataBaseSampler`` have them, and the
    same filters. Not a subclass of the latter: that one fails with numpy 1.24-1.26 (it uses
    ``np.long``), and walks through a list shuffled when the dataset was built, so that every
    worker pastes the same objects in the same order, and starts over in each epoch. Here each
    draw is made from numpy's global random numbers and nothing is remembered.

    Args:
        info_path: The database, ``.../nuscenes_dbinfos_train.pkl``; see ``database_check.py``.
        data_root: What paths in it are relative to; None: the current folder.
        rate: Share of the missing number of objects that is drawn.
        prepare: Filters and their argument: ``filter_by_difficulty`` (list of difficulties to
            drop), ``filter_by_min_points`` (least number of points for each class).
        sample_groups: For each class the number of objects that a scene is filled up to.
        classes: All class names, in the order of the labels.
        points_loader: Config of the transform that loads an object's points; 5 values a point by
            default.
        backend_args: Arguments of the mmengine file backend; None for local files.

    Raises:
        FileNotFoundError: If the database does not exist.
        ValueError: If it has another format or names files that do not exist, or a name in
            ``prepare`` or ``sample_groups`` is unknown.
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
        self.info_path = info_path
        self.data_root = data_root
        self.rate = rate
        self.backend_args = backend_args
        self.label_of = {name: label for label, name in enumerate(classes)}
        self.points_loader = TRANSFORMS.build(points_loader or _POINTS_LOADER)
        infos = self._checked_infos(sample_groups)
        self.has_image_crops = has_image_crops(infos)
        self.entries = self._filtered(infos, prepare)
        self.sample_groups = self._groups_with_entries(sample_groups)

    def sample_all(self, gt_boxes: np.ndarray, gt_labels: np.ndarray) -> SampledObjects | None:
        """Draw objects that collide neither with the scene nor with each other.

        Args:
            gt_boxes: (N, 7 or 9) boxes of the scene, LiDAR frame.
            gt_labels: (N,) their class numbers.

        Returns:
            The drawn objects with their points, None if there are none.
        """
        drawn: list[Mapping] = []
        taken = gt_boxes
        for name, wanted in self.sample_groups.items():
            present = int(np.sum(gt_labels == self.label_of[name]))
            number = int(np.round(self.rate * (wanted - present)))
            if number <= 0:
                continue
            fitting = self._draw_fitting(self.entries[name], number, taken)
            drawn += fitting
            taken = np.concatenate([taken, self._boxes(fitting, gt_boxes)])
        if not drawn:
            return None
        points = [self._load_points(entry) for entry in drawn]
        return SampledObjects(
            boxes=self._boxes(drawn, gt_boxes),
            labels=np.array([self.label_of[entry['name']] for entry in drawn], dtype=np.int64),
            points=points[0].cat(points),
            points_object=np.repeat(np.arange(len(drawn)), [len(p) for p in points]),
            entries=drawn,
        )

    def load_image_crop(self, path: str) -> np.ndarray:
        """Read a crop (h, w, 3), uint8 BGR, that an entry names.

        Raises:
            FileNotFoundError: If it does not exist.
        """
        try:
            encoded = mmengine.fileio.get(self._full_path(path), backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(self._missing_file_message(path)) from error
        return mmcv.imfrombytes(encoded, flag='color')

    def _checked_infos(self, sample_groups: Mapping[str, int]) -> dict[str, list]:
        """Read the database and refuse it with a remedy if it cannot be used."""
        missing = check_database_file(self.info_path, self.data_root, self.backend_args)
        if missing:
            raise FileNotFoundError(str(missing[0]))
        infos = mmengine.load(self.info_path, file_format='pkl', backend_args=self.backend_args)
        problems = check_database_entries(
            infos,
            self.info_path,
            self.data_root,
            sample_groups,
            image_crops=True,
            backend_args=self.backend_args,
        )
        if problems:
            raise ValueError('\n'.join(map(str, problems)))
        return infos

    def _filtered(self, infos: Mapping[str, list], prepare: Mapping) -> dict[str, list]:
        entries = dict(infos)
        for name, argument in prepare.items():
            if name == 'filter_by_difficulty':
                entries = DataBaseSampler.filter_by_difficulty(entries, argument)
            elif name == 'filter_by_min_points':
                # A class may be absent: nuScenes-mini does not have all of them.
                known = {key: least for key, least in argument.items() if key in entries}
                entries = DataBaseSampler.filter_by_min_points(entries, known)
            else:
                raise ValueError(
                    f"prepare has '{name}'; known are filter_by_difficulty, filter_by_min_points"
                )
        counts = ', '.join(f'{n} {len(entries[n])} of {len(infos[n])}' for n in entries)
        MMLogger.get_current_instance().info(
            f'Objects for pasting from {self.info_path}, after filtering: {counts}'
        )
        return entries

    def _groups_with_entries(self, sample_groups: Mapping[str, int]) -> dict[str, int]:
        empty = [name for name in sample_groups if not self.entries.get(name)]
        if empty:
            MMLogger.get_current_instance().warning(
                f'No object of {", ".join(empty)} will be pasted: {self.info_path} has none (left)'
            )
        return {name: int(number) for name, number in sample_groups.items() if name not in empty}

    def _draw_fitting(
        self, pool: Sequence[Mapping], number: int, taken: np.ndarray
    ) -> list[Mapping]:
        """Draw ``number`` entries and keep those that fit: one drawn twice fits only once."""
        fitting: list[Mapping] = []
        for index in np.random.randint(len(pool), size=number):
            box = self._boxes([pool[index]], taken)  # (1, 7 or 9)
            if not overlap_on_ground(box[0], taken).any():
                fitting.append(pool[index])
                taken = np.concatenate([taken, box])
        return fitting

    def _boxes(self, entries: Sequence[Mapping], like: np.ndarray) -> np.ndarray:
        """Boxes of entries with as many values as the scene's boxes, (len(entries), 7 or 9)."""
        width = like.shape[1]
        boxes = np.zeros((len(entries), width), dtype=like.dtype)
        for row, entry in enumerate(entries):
            if len(entry['box3d_lidar']) < width:
                raise ValueError(
                    f"boxes of '{self.info_path}' have {len(entry['box3d_lidar'])} values, those "
                    f'of the dataset {width}; make the database anew: '
                    f'{command_that_makes_it(self.data_root)}'
                )
            boxes[row] = entry['box3d_lidar'][:width]
        return boxes

    def _load_points(self, entry: Mapping) -> BasePoints:
        path = self._full_path(entry['path'])
        try:
            loaded = self.points_loader(dict(lidar_points=dict(lidar_path=path)))
        except FileNotFoundError as error:
            raise FileNotFoundError(self._missing_file_message(entry['path'])) from error
        points = loaded['points']
        points.translate(entry['box3d_lidar'][:3])
        return points

    def _full_path(self, path: str) -> str:
        return osp.join(self.data_root, path) if self.data_root else path

    def _missing_file_message(self, path: str) -> str:
        return (
            f"the database for pasting '{self.info_path}' names '{self._full_path(path)}', which "
            f'does not exist; make the database anew: {command_that_makes_it(self.data_root)}'
        )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(info_path={self.info_path!r}, data_root={self.data_root!r}, '
            f'rate={self.rate}, sample_groups={self.sample_groups})'
        )
