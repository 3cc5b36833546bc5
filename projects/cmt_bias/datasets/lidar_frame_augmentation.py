"""Rotate, scale, shift and mirror a whole scene: points, boxes, velocities and camera matrices."""

from collections.abc import Sequence

import numpy as np
import torch
from mmdet3d.datasets.transforms import GlobalRotScaleTrans, RandomFlip3D
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import LiDARPoints


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
