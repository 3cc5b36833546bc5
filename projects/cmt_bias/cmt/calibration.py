"""The calibration of a batch, from the samples' metainfo."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .position_encoding import CameraGeometry, common_image_shape


def camera_geometry(img_metas: Sequence[dict], like: Tensor) -> CameraGeometry | None:
    """Calibration of a batch, in the type and on the device of a tensor; None where samples have
    no ``lidar2img``, or no ``pad_shape`` as without images.

    Raises:
        ValueError: If images differ in size, within a sample or a batch.
    """
    if any(key not in meta for meta in img_metas for key in ('lidar2img', 'pad_shape')):
        return None
    shapes = {common_image_shape(meta['pad_shape']) for meta in img_metas}
    if len(shapes) > 1:
        raise ValueError(
            f'pad_shape differs within a batch: {sorted(shapes)}. Resize the images to one size '
            '(ResizeCropFlipImage does).'
        )
    # float64: the inverse of a projection loses three digits
    lidar2img = torch.as_tensor(
        np.stack([np.asarray(meta['lidar2img'], dtype=np.float64) for meta in img_metas])
    )
    both = torch.stack((lidar2img, torch.linalg.inv(lidar2img)))
    lidar2img, img2lidar = both.to(like, non_blocking=True)
    return CameraGeometry(lidar2img, img2lidar, shapes.pop())
