"""Rotate, scale and shift a whole scene: points, boxes, velocities and camera matrices."""

from collections.abc import Sequence

import numpy as np
import torch
from mmdet3d.datasets.transforms import GlobalRotScaleTrans
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import LiDARPoints

from .lidar_frame_motion import move_lidar_frame
from .random_flip_3d import CustomRandomFlip3D


@TRANSFORMS.register_module()
class GlobalRotScaleTransAll(GlobalRotScaleTrans):
    """mmdet3d's ``GlobalRotScaleTrans`` that also keeps ``lidar2img`` right.

    A point p becomes ``scale * R(angle) p + translation``, the rotation counter-clockwise about
    the z axis. Samples without points (camera only), without boxes, and without images work.

    Args:
        rot_range: Bounds of the rotation angle, radians.
        scale_ratio_range: Bounds of the scale.
        translation_std: Standard deviation of the translation along x, y, z, metres.
    """

    def __init__(
        self,
        rot_range: Sequence[float] = (-0.78539816, 0.78539816),
        scale_ratio_range: Sequence[float] = (0.95, 1.05),
        translation_std: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        super().__init__(
            rot_range=list(rot_range),
            scale_ratio_range=list(scale_ratio_range),
            translation_std=list(translation_std),
        )

    def transform(self, results: dict) -> dict:
        """Move the scene by one random draw, and the camera matrices with it."""
        has_points = 'points' in results
        if not has_points:
            # The parent moves points unconditionally, and takes the rotation from them.
            results['points'] = LiDARPoints(torch.zeros(0, 3))
        results = super().transform(results)
        if not has_points:
            del results['points']
        move_lidar_frame(results, _drawn_motion(results))
        return results


@TRANSFORMS.register_module()
class GlobalRotScaleTransImage(GlobalRotScaleTransAll):
    """The augmentation of the camera-only recipe: as above, and then random flips.

    NOTE: the released class has ``reverse_angle``, which turned the boxes by the opposite angle
    because boxes of mmdet3d before 1.0 counted yaw clockwise. Boxes and camera matrices turn
    together here, so that setting has nothing to mend and does not exist.

    Args:
        rot_range: Bounds of the rotation angle, radians.
        scale_ratio_range: Bounds of the scale.
        translation_std: Standard deviation of the translation along x, y, z, metres. The released
            class draws none.
        flip_dx_ratio: Probability of x -> -x.
        flip_dy_ratio: Probability of y -> -y.
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
        self.flip = CustomRandomFlip3D(
            flip_ratio_bev_horizontal=flip_dy_ratio, flip_ratio_bev_vertical=flip_dx_ratio
        )

    def transform(self, results: dict) -> dict:
        """Rotate, scale and shift, then flip."""
        return self.flip.transform(super().transform(results))


def _drawn_motion(results: dict) -> np.ndarray:
    """The motion (4, 4) that ``GlobalRotScaleTrans`` has drawn and left in ``results``."""
    cos, sin = np.cos(results['pcd_rotation_angle']), np.sin(results['pcd_rotation_angle'])
    motion = np.eye(4)
    motion[:2, :2] = [[cos, -sin], [sin, cos]]
    motion[:3, :3] *= results['pcd_scale_factor']
    motion[:3, 3] = results['pcd_trans']
    return motion
