"""Paste objects of other scenes into a sample, ground truth, points and images, until an epoch.

Pixel coordinates as in ``augmentation.py``.
"""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from mmdet3d.datasets.transforms import ObjectSample
from mmdet3d.registry import HOOKS, TRANSFORMS
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import EpochBasedTrainLoop, Runner

from .box_overlap import points_in_boxes
from .nuscenes_dataset import transforms_with

_MIN_RECTANGLE_SIDE = 2


class VisibleBoxes(NamedTuple):
    """K boxes that lie in front of a camera and touch its image, farthest first.

    Rectangles are those of the projected corners, right and bottom exclusive, clipped to the image
    without its last row and column, as in the released code.
    """

    indices: np.ndarray  # (K,) int64, which of all boxes they are
    rectangle: np.ndarray  # (K, 4) left, top, right, bottom in whole pixels
    depth: np.ndarray  # (K,) the corners' mean, metres


def visible_boxes(
    corners: np.ndarray, lidar2img: np.ndarray, image_shape: tuple[int, ...]
) -> VisibleBoxes:
    """The boxes with all corners in front of a camera that cover 2 x 2 pixels of it or more.

    Corners are (N, 8, 3), metres, LiDAR frame; ``lidar2img`` (4, 4); ``image_shape`` (H, W).
    """
    projected = corners @ lidar2img[:3, :3].T + lidar2img[:3, 3]  # (N, 8, 3)
    index = np.flatnonzero((projected[..., 2] > 0).all(axis=1))
    projected = projected[index]
    pixels = projected[..., :2] / projected[..., 2:]  # (K, 8, 2)
    limit = (image_shape[1] - 1, image_shape[0] - 1)
    low = np.clip(pixels.min(axis=1).astype(np.int64), 0, limit)
    high = np.clip(pixels.max(axis=1).astype(np.int64), 0, limit)
    depth = projected[..., 2].mean(axis=1)
    kept = np.flatnonzero((high - low >= _MIN_RECTANGLE_SIDE).all(axis=1))
    order = kept[np.argsort(-depth[kept], kind='stable')]
    return VisibleBoxes(index[order], np.concatenate([low, high], 1)[order], depth[order])


def paste_crops(
    image: np.ndarray, boxes: VisibleBoxes, crops: Mapping[int, np.ndarray], mixup_rate: float
) -> np.ndarray:
    """A copy of an image (H, W, 3) with crops pasted at their boxes, from far to near.

    A crop is resized to its box's rectangle and shows through the image's own objects, nearer ones
    too: the released code means to draw these again, but its copies of them are views of the
    painted image.

    ``crops`` are (h, w, 3) by the index of their box; boxes without one leave no trace.
    ``mixup_rate`` is the weight of a crop in [0, 1]; if negative, it covers the image.
    """
    painted = image.copy()
    for index, (left, top, right, bottom) in zip(boxes.indices, boxes.rectangle, strict=True):
        if index not in crops:
            continue
        place = np.s_[top:bottom, left:right]
        patch = cv2.resize(crops[index], (int(right - left), int(bottom - top)))
        if mixup_rate >= 0:
            # assigned to an image of uint8 it loses its fraction
            patch = painted[place] * (1 - mixup_rate) + patch * mixup_rate
        painted[place] = patch
    return painted


@TRANSFORMS.register_module()
class UnifiedObjectSample(ObjectSample):
    """Ground-truth pasting into the point cloud and, with ``sample_2d``, into all images.

    Objects keep the place in the LiDAR frame that they had in their own scene. Points of the scene
    inside a pasted box are removed, the object's own are added, and every camera that sees it gets
    the object's one crop, see :func:`paste_crops`. An object without a crop is pasted as points
    alone, and so are all of a database without crops (mmdet3d's own), with a warning.

    ``db_sampler`` is the config of the :class:`UnifiedDataBaseSampler`. A ValueError is raised if
    ``mixup_rate`` is above 1, points of the database have other values than those of the dataset,
    or a file of it cannot be read; a FileNotFoundError if one is missing.
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


@HOOKS.register_module()
class PastingSwitchOffHook(Hook):
    """Switch ground-truth pasting off for all epochs from ``epoch`` on.

    mmdet3d's ``DisableObjectSampleHook`` acts in the one epoch whose number it is given, so that
    a run resumed later goes on pasting, and below one dataset wrapper alone. This hook acts at
    the start of every later epoch too, on every transform with an attribute ``disabled``, however
    nested, and once ends workers that live on between epochs with copies of the dataset.

    Epochs are counted from 0: with 20 of them and ``epoch=15`` the last 5 are without pasting. A
    ValueError is raised for a negative one.
    """

    def __init__(self, epoch: int) -> None:
        if epoch < 0:
            raise ValueError(f'PastingSwitchOffHook: epoch={epoch} must not be negative')
        self.epoch = epoch

    def before_train(self, runner: Runner) -> None:
        """Say what will happen; a TypeError is raised if the training loop counts no epochs."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise TypeError(
                'PastingSwitchOffHook counts epochs, but the training loop is a '
                f'{type(runner.train_loop).__name__}; use train_cfg=dict(by_epoch=True, ...)'
            )
        if not list(transforms_with(runner.train_dataloader.dataset, 'disabled')):
            runner.logger.warning('PastingSwitchOffHook: nothing in the training data pastes')
        elif self.epoch >= runner.max_epochs:
            runner.logger.warning(
                f'Objects are pasted in all {runner.max_epochs} epochs: PastingSwitchOffHook has '
                f'epoch={self.epoch}; the published recipes train the last 5 of 20 without'
            )
        else:
            runner.logger.info(
                f'Objects are pasted in the first {self.epoch} of {runner.max_epochs} epochs'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Switch pasting off if it is time, and make sure that the workers know."""
        loader = runner.train_dataloader
        found = transforms_with(loader.dataset, 'disabled')
        pasting = [transform for transform in found if not transform.disabled]
        if runner.epoch < self.epoch or not pasting:
            return
        for transform in pasting:
            transform.disabled = True
        iterator = getattr(loader, '_iterator', None)
        if iterator is not None:  # there are persistent workers; the next epoch starts new ones
            iterator._shutdown_workers()
            loader._iterator = None
        runner.logger.info(f'Epoch {runner.epoch + 1}: pasting is off from here on')
