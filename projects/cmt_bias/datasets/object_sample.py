"""Paste objects of other scenes into a sample: ground truth, points and images."""

from collections.abc import Mapping

import numpy as np
from mmdet3d.datasets.transforms import ObjectSample
from mmdet3d.registry import TRANSFORMS
from mmengine.logging import MMLogger

from .box_overlap import points_in_boxes
from .image_pasting import NO_OWNER, paste_crops, points_shown, visible_boxes


@TRANSFORMS.register_module()
class UnifiedObjectSample(ObjectSample):
    """Ground-truth pasting into the point cloud and, with ``sample_2d``, into all images.

    Objects keep the place in the LiDAR frame that they had in their own scene. Points of the scene
    inside a pasted box are removed, the object's own points are added. In every camera that sees
    a pasted box, the object's one crop is drawn over the rectangle around the projected box,
    farther objects first; see :func:`paste_crops`. An object without a crop is pasted as points.

    A database without image crops (mmdet3d's own) works: then only points are pasted, and the
    log says so once.

    Set ``disabled`` to stop pasting; :class:`PastingSwitchOffHook` does.

    Args:
        db_sampler: Config of the :class:`UnifiedDataBaseSampler`.
        sample_2d: Paste into the images too.
        mixup_rate: Weight of a pasted crop in [0, 1]; negative: the crop covers the image.
        modify_points: Also remove points that contradict the painted images: own points behind a
            pasted object, and points of a pasted object that something nearer hides.

    Required keys: ``points``, ``gt_bboxes_3d``, ``gt_labels_3d``; with ``sample_2d`` also ``img``
    and ``lidar2img``. All but the last are modified.

    Raises:
        ValueError: If ``mixup_rate`` is above 1, ``modify_points`` is set without ``sample_2d``,
            or points of the database have other values than those of the dataset.
        FileNotFoundError: If a file of the database is missing.
    """

    def __init__(
        self,
        db_sampler: Mapping,
        sample_2d: bool = False,
        mixup_rate: float = -1.0,
        modify_points: bool = False,
    ) -> None:
        if mixup_rate > 1:
            raise ValueError(f'UnifiedObjectSample: mixup_rate={mixup_rate} must not be above 1')
        if modify_points and not sample_2d:
            raise ValueError('UnifiedObjectSample: modify_points=True needs sample_2d=True')
        super().__init__({'type': 'UnifiedDataBaseSampler', **db_sampler}, sample_2d=sample_2d)
        self.mixup_rate = mixup_rate
        self.modify_points = modify_points
        if sample_2d and not self.db_sampler.has_image_crops:
            self.sample_2d = False
            database = self.db_sampler.database
            MMLogger.get_current_instance().warning(
                f"'{database.info_path}' has no image crops: objects are pasted into the point "
                f'cloud alone. To paste into the images too, {database.remedy}'
            )

    def transform(self, results: dict) -> dict:
        """Paste objects, unless pasting is switched off or nothing fits."""
        if self.disabled:
            return results
        boxes, labels = results['gt_bboxes_3d'], results['gt_labels_3d']
        sampler, num_own = self.db_sampler, len(boxes)
        entries, new_boxes = sampler.sample_all(boxes.numpy(), labels)
        if not entries:
            return results
        try:
            clouds = [sampler.load_points(entry) for entry in entries]
            crops = {
                index: sampler.load_image_crop(entry['image_path'])
                for index, entry in enumerate(entries, start=num_own)
                if self.sample_2d and entry.get('image_path')
            }
        except FileNotFoundError as error:
            remedy = sampler.database.remedy
            raise FileNotFoundError(f'objects for pasting: {error}; {remedy}') from error

        points = results['points']
        if points.shape[1] != clouds[0].shape[1]:
            raise ValueError(
                f'points of the dataset have {points.shape[1]} values, those of the database '
                f'{clouds[0].shape[1]}; make use_dim of points_loader that of the dataset'
            )
        points = points[~points_in_boxes(points.coord.numpy(), new_boxes).any(axis=1)]
        owners = [np.full(len(cloud), index) for index, cloud in enumerate(clouds, start=num_own)]
        point_owner = np.concatenate([np.full(len(points), NO_OWNER), *owners])
        new_labels = [sampler.label_of[entry['name']] for entry in entries]
        results['points'] = points.cat([points, *clouds])
        results['gt_bboxes_3d'] = boxes.new_box(np.concatenate([boxes.numpy(), new_boxes]))
        results['gt_labels_3d'] = np.concatenate([labels, new_labels]).astype(np.int64)
        if self.sample_2d:
            self._paste_into_images(results, crops, num_own, point_owner)
        return results

    def _paste_into_images(
        self,
        results: dict,
        crops: Mapping[int, np.ndarray],
        num_own: int,
        point_owner: np.ndarray,
    ) -> None:
        """Paint the crops, and with ``modify_points`` drop the points that disagree.

        Args:
            results: The sample; its boxes are the own ones, then the pasted ones.
            crops: Crops (h, w, 3) by the index of their box.
            num_own: Number of own boxes.
            point_owner: (P,) index of the pasted box each point belongs to, or ``NO_OWNER``.
        """
        corners = results['gt_bboxes_3d'].corners.numpy().astype(np.float64)  # (N + M, 8, 3)
        keep = np.ones(len(point_owner), dtype=bool)
        for view, image in enumerate(results['img']):
            lidar2img = results['lidar2img'][view]
            visible = visible_boxes(corners, lidar2img, image.shape[:2])
            painted, owner = paste_crops(image, visible, crops, num_own, self.mixup_rate)
            results['img'][view] = painted
            if self.modify_points:
                points = results['points'].coord.numpy()
                keep &= points_shown(points, point_owner, owner, num_own, lidar2img)
        if self.modify_points:
            results['points'] = results['points'][keep]
