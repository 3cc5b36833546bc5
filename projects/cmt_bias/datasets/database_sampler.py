"""Draw objects of a ground-truth database that fit into a scene."""

from collections.abc import Mapping, Sequence

import mmcv
import mmengine
import numpy as np
from mmdet3d.datasets.transforms import DataBaseSampler
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import BasePoints
from mmengine.logging import MMLogger

from .box_overlap import overlap_on_ground
from .object_database import ObjectDatabase, has_image_crops

_POINTS_LOADER = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5)


@TRANSFORMS.register_module()
class UnifiedDataBaseSampler(ObjectDatabase):
    """Draw objects of each class until the scene has as many as wished, without collisions.

    Keyword arguments as the released class and mmdet3d's ``DataBaseSampler`` have them, and the
    same filters. Not a subclass of the latter: that one fails with numpy 1.24-1.26 (it uses
    ``np.long``), and walks through a list shuffled when the dataset was built, so that every
    worker pastes the same objects in the same order, and starts over in each epoch. Here each
    draw is made from numpy's global random numbers and nothing is remembered.

    Args:
        info_path: The database, ``.../nuscenes_dbinfos_train.pkl``; see :class:`ObjectDatabase`.
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
        """Read a crop (h, w, 3), uint8 BGR, that an entry names."""
        encoded = mmengine.fileio.get(self.full_path(path), backend_args=self.backend_args)
        return mmcv.imfrombytes(encoded, flag='color')

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
