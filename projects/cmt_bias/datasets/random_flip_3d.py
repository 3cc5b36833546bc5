"""Mirror a whole scene: points, boxes, velocities and camera matrices."""

import numpy as np
from mmdet3d.datasets.transforms import RandomFlip3D
from mmdet3d.registry import TRANSFORMS

from .lidar_frame_motion import move_lidar_frame


@TRANSFORMS.register_module()
class CustomRandomFlip3D(RandomFlip3D):
    """Mirror the scene along y and along x, each with its probability; the images stay.

    mmdet3d's ``RandomFlip3D`` mirrors the images too, with the probability of the horizontal
    flip and even for ``sync_2d=False``, and leaves ``lidar2img`` as it was. Here the images are
    mirrored by :class:`ResizeCropFlipImage` alone, and ``lidar2img`` follows the scene. Samples
    without points (camera only), without boxes, and without images work.

    Args:
        flip_ratio_bev_horizontal: Probability of y -> -y.
        flip_ratio_bev_vertical: Probability of x -> -x.
        sync_2d: Must be False; here because released configs state it.

    Raises:
        ValueError: If ``sync_2d`` is True.
    """

    def __init__(
        self,
        flip_ratio_bev_horizontal: float = 0.0,
        flip_ratio_bev_vertical: float = 0.0,
        sync_2d: bool = False,
    ) -> None:
        if sync_2d:
            raise ValueError(
                'CustomRandomFlip3D(sync_2d=True) is not possible: six cameras cannot be '
                'mirrored along with the scene; mirror images with ResizeCropFlipImage'
            )
        super().__init__(
            sync_2d=False,
            flip_ratio_bev_horizontal=flip_ratio_bev_horizontal,
            flip_ratio_bev_vertical=flip_ratio_bev_vertical,
        )

    def transform(self, results: dict) -> dict:
        """Draw both flips (unless ``pcd_*_flip`` say them already) and apply them."""
        motion = np.eye(4)
        for direction, probability, axis, code in (
            ('horizontal', self.flip_ratio_bev_horizontal, 1, 'HF'),
            ('vertical', self.flip_ratio_bev_vertical, 0, 'VF'),
        ):
            key = f'pcd_{direction}_flip'
            if key not in results:
                results[key] = bool(np.random.rand() < probability)
            if results[key]:
                self.random_flip_data_3d(results, direction)
                results.setdefault('transformation_3d_flow', []).append(code)
                motion[axis, axis] = -1
        move_lidar_frame(results, motion)
        return results

    def random_flip_data_3d(self, results: dict, direction: str = 'horizontal') -> None:
        """Mirror points and boxes, whichever are there."""
        for key in ('points', 'gt_bboxes_3d'):
            if key in results:
                results[key].flip(direction)
