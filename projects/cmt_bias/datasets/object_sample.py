"""Paste objects of other scenes into a sample: ground truth, points and images."""

from collections.abc import Mapping

import numpy as np
from mmdet3d.datasets.transforms import ObjectSample
from mmdet3d.registry import TRANSFORMS
from mmengine.logging import MMLogger

from .box_overlap import points_in_boxes
from .image_pasting import paste_crops, visible_boxes


@TRANSFORMS.register_module()
class UnifiedObjectSample(ObjectSample):
    """Ground-truth pasting into the point cloud and, with ``sample_2d``, into all images.

    Objects keep the place in the LiDAR frame that they had in their own scene. Points of the scene
    inside a pasted box are removed, the object's own are added, and every camera that sees it gets
    the object's one crop, see :func:`paste_crops`. An object without a crop is pasted as points
    alone, and so are all of a database without crops (mmdet3d's own), with a warning.
    :class:`PastingSwitchOffHook` sets ``disabled`` to stop pasting.

    Args:
        db_sampler: Config of the :class:`UnifiedDataBaseSampler`.
        sample_2d: Paste into the images too.
        mixup_rate: Weight of a pasted crop in [0, 1]; negative: the crop covers the image.

    Modified keys: ``points``, ``gt_bboxes_3d``, ``gt_labels_3d``; with ``sample_2d`` also ``img``,
    which needs ``lidar2img``.

    Raises:
        ValueError: If ``mixup_rate`` is above 1, points of the database have other values than
            those of the dataset, or a file of it cannot be read.
        FileNotFoundError: If a file of the database is missing.
    """

    def __init__(
        self, db_sampler: Mapping, sample_2d: bool = False, mixup_rate: float = -1.0
    ) -> None:
        if mixup_rate > 1:
            raise ValueError(f'UnifiedObjectSample: mixup_rate={mixup_rate} must not be above 1')
        super().__init__({'type': 'UnifiedDataBaseSampler', **db_sampler}, sample_2d=sample_2d)
        self.mixup_rate = mixup_rate
        if sample_2d and not self.db_sampler.has_image_crops:
            self.sample_2d = False
            MMLogger.get_current_instance().warning(
                f"'{self.db_sampler.info_path}' has no image crops: objects are pasted into the "
                f'point cloud alone. To paste into the images too, {self.db_sampler.remedy}'
            )

    def transform(self, results: dict) -> dict:
        """Paste objects, unless pasting is switched off or nothing fits."""
        if self.disabled:
            return results
        boxes, labels, sampler = results['gt_bboxes_3d'], results['gt_labels_3d'], self.db_sampler
        entries, new_boxes = sampler.sample_all(boxes.numpy(), labels)
        if not entries:
            return results
        try:
            clouds = [sampler.load_points(entry) for entry in entries]
            crops = {
                index: sampler.load_image_crop(entry)
                for index, entry in enumerate(entries)
                if self.sample_2d and entry.get('image_path')
            }
        except (FileNotFoundError, ValueError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f'objects for pasting: {error}; {sampler.remedy}') from error
        points = results['points']
        if points.shape[1] != clouds[0].shape[1]:
            raise ValueError(
                f'points of the dataset have {points.shape[1]} values, those of the database '
                f'{clouds[0].shape[1]}; make use_dim of points_loader that of the dataset'
            )
        points = points[~points_in_boxes(points.coord.numpy(), new_boxes).any(axis=1)]
        new_labels = [sampler.label_of[entry['name']] for entry in entries]
        results['points'] = points.cat([points, *clouds])
        results['gt_bboxes_3d'] = boxes.new_box(np.concatenate([boxes.numpy(), new_boxes]))
        results['gt_labels_3d'] = np.concatenate([labels, new_labels]).astype(np.int64)
        if self.sample_2d:
            corners = boxes.new_box(new_boxes).corners.numpy().astype(np.float64)  # (M, 8, 3)
            for view, image in enumerate(results['img']):
                visible = visible_boxes(corners, results['lidar2img'][view], image.shape[:2])
                results['img'][view] = paste_crops(image, visible, crops, self.mixup_rate)
        return results
