"""Move a whole scene, or what its images show, and the matrices that project into them.

Pixel coordinates are continuous: the image covers [0, W) x [0, H), the centre of the upper left
pixel is (0.5, 0.5). This is how the released code scales (u -> s u) and mirrors (u -> W - u), and
how ``cv2.resize`` samples.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import GlobalRotScaleTrans, RandomFlip3D
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import LiDARPoints

_ALLOWED_ASPECT_ERROR = 0.02
_OPTIONAL = dict(bot_pct_lim=(0.0, 0.0), rot_lim=(0.0, 0.0), rand_flip=False, H=None, W=None)


def move_lidar_frame(results: dict, motion: np.ndarray) -> None:
    """Let the camera matrices follow where every point p of the LiDAR frame became ``motion @ p``.

    The images stay, so ``lidar2img`` and ``lidar2cam`` (V, 4, 4) become ``M @ inverse(motion)``; a
    KeyError is raised for images without. ``lidar_aug_matrix`` (4, 4) keeps the total motion.
    """
    if 'img' in results and 'lidar2img' not in results:
        raise KeyError("images without 'lidar2img': load them with LoadCalibratedMultiViewImages")
    inverse = np.linalg.inv(motion)
    for key in ('lidar2img', 'lidar2cam'):
        if key in results:
            results[key] = np.asarray(results[key], dtype=np.float64) @ inverse
    results['lidar_aug_matrix'] = motion @ results.get('lidar_aug_matrix', np.eye(4))


@TRANSFORMS.register_module()
class CustomRandomFlip3D(RandomFlip3D):
    """mmdet3d's ``RandomFlip3D`` of points and boxes, with images that stay and their matrices.

    The stock class mirrors the images too, even for ``sync_2d=False``, and leaves ``lidar2img`` as
    it was. Here :class:`ResizeCropFlipImage` alone mirrors images, and samples without points,
    boxes or images work.

    Ratios are the probabilities of y -> -y (horizontal) and x -> -x (vertical). ``sync_2d``, which
    released configs state, must be False, or a ValueError is raised.
    """

    def __init__(
        self,
        flip_ratio_bev_horizontal: float = 0.0,
        flip_ratio_bev_vertical: float = 0.0,
        sync_2d: bool = False,
    ) -> None:
        if sync_2d:
            raise ValueError(
                'CustomRandomFlip3D: sync_2d must be False; ResizeCropFlipImage mirrors images'
            )
        super().__init__(False, flip_ratio_bev_horizontal, flip_ratio_bev_vertical)

    def transform(self, results: dict) -> dict:
        """Draw both flips (unless ``pcd_*_flip`` say them already) and apply them."""
        images = {'img': results.pop('img')} if 'img' in results else {}
        results = super().transform(results)
        results.update(images)
        motion = np.eye(4)
        for axis, direction in enumerate(('vertical', 'horizontal')):
            motion[axis, axis] = -1 if results[f'pcd_{direction}_flip'] else 1
        move_lidar_frame(results, motion)
        return results

    def random_flip_data_3d(self, input_dict: dict, direction: str = 'horizontal') -> None:
        """Flip what there is; the parent needs boxes or points, and refuses ``centers_2d``."""
        for key in ('points', 'gt_bboxes_3d'):
            if key in input_dict:
                input_dict[key].flip(direction)


@TRANSFORMS.register_module()
class GlobalRotScaleTransAll(GlobalRotScaleTrans):
    """mmdet3d's ``GlobalRotScaleTrans`` that also keeps ``lidar2img`` right.

    A point p becomes ``scale * R(angle) p + translation``, the rotation counter-clockwise about
    the z axis. Samples without points, boxes or images work.
    """

    def transform(self, results: dict) -> dict:
        """Move the scene by one random draw, and the camera matrices with it."""
        has_points = 'points' in results
        # The parent moves points unconditionally, and takes the rotation from them.
        results.setdefault('points', LiDARPoints(torch.zeros(0, 3)))
        results = super().transform(results)
        if not has_points:
            del results['points']
        cos, sin = np.cos(results['pcd_rotation_angle']), np.sin(results['pcd_rotation_angle'])
        motion = np.eye(4)
        motion[:2, :2] = [[cos, -sin], [sin, cos]]
        motion[:3, :3] *= results['pcd_scale_factor']
        motion[:3, 3] = results['pcd_trans']
        move_lidar_frame(results, motion)
        return results


@TRANSFORMS.register_module()
class GlobalRotScaleTransImage(GlobalRotScaleTransAll):
    """The augmentation of the camera-only recipe: as above, and then random flips.

    ``flip_dx_ratio`` is the probability of x -> -x, ``flip_dy_ratio`` of y -> -y; the others are
    mmdet3d's, radians and metres. The released class has ``reverse_angle`` because boxes of
    mmdet3d before 1.0 counted yaw clockwise; here boxes and camera matrices turn together.
    """

    def __init__(
        self,
        rot_range: Sequence[float] = (-0.3925, 0.3925),
        scale_ratio_range: Sequence[float] = (0.95, 1.05),
        translation_std: Sequence[float] = (0.0, 0.0, 0.0),
        flip_dx_ratio: float = 0.0,
        flip_dy_ratio: float = 0.0,
    ) -> None:
        super().__init__(rot_range, scale_ratio_range, translation_std)
        self.flip = CustomRandomFlip3D(flip_dy_ratio, flip_dx_ratio)

    def transform(self, results: dict) -> dict:
        """Rotate, scale and shift, then flip."""
        return self.flip.transform(super().transform(results))


class ImageAugmentation(NamedTuple):
    """What is done to an image, in the order of the fields; sizes are (width, height), pixels."""

    resized: tuple[int, int]  # size after resizing
    corner: tuple[int, int]  # (left, top) of the crop in that; what lies outside is black
    size: tuple[int, int]  # of the crop
    flip: bool = False  # exchange left and right
    rotation: float = 0.0  # about the centre of the crop, degrees, counter-clockwise as seen

    def matrix(self, source_size: tuple[int, int]) -> np.ndarray:
        """Affine (3, 3) from pixels (u, v, 1) of a source image of some size to the result's.

        The scale is that of the rounded size, not of the draw.
        """
        width, height = self.size
        scale = np.diag([self.resized[0] / source_size[0], self.resized[1] / source_size[1], 1.0])
        shift, mirror, turn = np.eye(3), np.eye(3), np.eye(3)
        shift[:2, 2] = -self.corner[0], -self.corner[1]
        if self.flip:
            mirror[0] = -1, 0, width
        turn[:2] = cv2.getRotationMatrix2D((width / 2, height / 2), self.rotation, 1.0)
        return turn @ mirror @ shift @ scale

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Do it to an image (H, W, 3) of any dtype that OpenCV takes; the dtype is kept."""
        shift = np.array([[1.0, 0.0, -self.corner[0]], [0.0, 1.0, -self.corner[1]]])
        image = cv2.resize(image, self.resized)
        image = cv2.warpAffine(image, shift, self.size, flags=cv2.INTER_NEAREST)
        if self.flip:
            image = np.ascontiguousarray(image[:, ::-1])
        return mmcv.imrotate(image, -self.rotation) if self.rotation else image


@TRANSFORMS.register_module()
class ResizeCropFlipImage(BaseTransform):
    """Random resize, crop, mirror and rotation of all camera images by one draw.

    ``lidar2img`` and ``cam2img`` follow exactly. Training draws the scale from ``resize_lim``, the
    horizontal place of the crop, the mirroring and the rotation; the crop keeps the lower part of
    the image. Testing scales such that the crop is just filled and takes its horizontal centre.

    ``resize_lim`` refers to source images of ``H`` x ``W``. One of another size (the synthetic
    data are smaller) but the same proportions is brought to the size that a ``H`` x ``W`` image
    would get, so that the same config shows the same field of view.

    Args:
        data_aug_conf: ``final_dim`` (height, width) of the result; ``resize_lim`` bounds of the
            scale; optional ``bot_pct_lim`` bounds of the share of the height cut off at the bottom
            (0, 0), ``rot_lim`` bounds of the rotation in degrees (0, 0), ``rand_flip`` (False),
            ``H`` and ``W`` (of each image). Wrong keys and proportions are a ValueError.
        training: Draw at random.
        pic_wise: Draw anew for each camera.

    Modified keys: ``img``, ``lidar2img``, ``cam2img``, ``img_shape``, ``pad_shape``. Added key:
    ``img_aug_matrix`` (V, 4, 4), the total motion of (u d, v d, d, 1).
    """

    def __init__(
        self, data_aug_conf: Mapping, training: bool = True, pic_wise: bool = False
    ) -> None:
        self.data_aug_conf = conf = {**_OPTIONAL, **data_aug_conf}
        wrong = sorted(set(conf) ^ {'resize_lim', 'final_dim', *_OPTIONAL})
        if wrong or (conf['H'] is None) != (conf['W'] is None):
            raise ValueError(
                f'ResizeCropFlipImage: data_aug_conf lacks or does not know {wrong}; it takes '
                f"resize_lim, final_dim and optionally {', '.join(_OPTIONAL)}, 'H' and 'W' both "
                'or neither'
            )
        self.training = training
        self.pic_wise = pic_wise

    def transform(self, results: dict) -> dict:
        """Augment every image and update the matrices."""
        augmented, motions = [], np.tile(np.eye(4), (len(results['img']), 1, 1))
        for view, image in enumerate(results['img']):
            if view == 0 or self.pic_wise:
                draw = self._draw()
            source_size = (image.shape[1], image.shape[0])
            augmentation = self._augmentation(draw, *source_size)
            augmented.append(augmentation.apply(image))
            # The third row of (u d, v d, d, 1) is the depth, which does not change.
            motions[view, :3, :3] = augmentation.matrix(source_size)
        results['img'] = augmented
        for key in ('lidar2img', 'cam2img'):
            results[key] = motions @ np.asarray(results[key], dtype=np.float64)
        results['img_aug_matrix'] = motions @ results.get('img_aug_matrix', np.eye(4))
        results['img_shape'] = results['pad_shape'] = augmented[0].shape[:2]
        return results

    def _draw(self) -> tuple[float | None, float, float, bool, float]:
        """Scale (None: fill the crop), share cut off, place of the crop (0-1), flip, rotation."""
        conf = self.data_aug_conf
        if not self.training:
            return None, float(np.mean(conf['bot_pct_lim'])), 0.5, False, 0.0
        return (
            np.random.uniform(*conf['resize_lim']),
            np.random.uniform(*conf['bot_pct_lim']),
            np.random.uniform(),
            bool(conf['rand_flip'] and np.random.rand() < 0.5),
            np.random.uniform(*conf['rot_lim']),
        )

    def _augmentation(self, draw: tuple, width: int, height: int) -> ImageAugmentation:
        """What a draw means in whole pixels for an image of this size."""
        scale, cut, place, flip, rotation = draw
        conf = self.data_aug_conf
        nominal_width, nominal_height = conf['W'] or width, conf['H'] or height
        ratio = (width / height) / (nominal_width / nominal_height)
        if abs(ratio - 1) > _ALLOWED_ASPECT_ERROR:
            raise ValueError(
                f'ResizeCropFlipImage: an image is {width} x {height} pixels, but data_aug_conf '
                f"says W={nominal_width}, H={nominal_height}; set 'H' and 'W' to the size of the "
                'images or leave both out'
            )
        crop_height, crop_width = conf['final_dim']
        if scale is None:
            scale = max(crop_height / nominal_height, crop_width / nominal_width)
        resized = (int(nominal_width * scale), int(nominal_height * scale))
        left = int(place * max(0, resized[0] - crop_width))
        top = int((1 - cut) * resized[1]) - crop_height
        return ImageAugmentation(resized, (left, top), (crop_width, crop_height), flip, rotation)
