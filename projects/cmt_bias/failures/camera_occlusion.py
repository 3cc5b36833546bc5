"""Dirt on the lenses of the cameras."""

import cv2
import numpy as np
from mmdet3d.registry import TRANSFORMS

from .sensor_failure import SensorFailure

_CELLS = 48  # cells of the noise along the longer side of an image


@TRANSFORMS.register_module()
class CameraOcclusion(SensorFailure):
    """Black patches on every image, another pattern for each camera.

    nuScenes-R and MoME lay photographs of dirty glass over the images. Those files are not part
    of this project; the patches here are smoothed noise above a threshold, which covers exactly
    the given share of the pixels with opaque, irregular spots.

    Args:
        share: Share of each image that is covered.
        spot_size: Standard deviation of the smoothing, as a share of the image's longer side;
            spots are about four times as wide.
        seed: Seed of the patterns.

    Raises:
        ValueError: If ``share`` or ``spot_size`` is not within (0, 1).
    """

    spoiled = ('img',)

    def __init__(self, share: float = 0.4, spot_size: float = 0.05, seed: int = 0) -> None:
        super().__init__(seed)
        for name, value in (('share', share), ('spot_size', spot_size)):
            if not 0 < value < 1:
                raise ValueError(f'CameraOcclusion: {name}={value} must lie within (0, 1)')
        self.share = share
        self.spot_size = spot_size

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        """See :meth:`SensorFailure.spoil`."""
        results['img'] = [
            np.where(self._mask(image.shape[:2], rng)[..., None], 0, image).astype(image.dtype)
            for image in results['img']
        ]

    def _mask(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Where dirt lies, bool (H, W)."""
        height, width = shape
        cell = max(height, width) / _CELLS
        cells = (max(2, round(height / cell)), max(2, round(width / cell)))
        noise = rng.standard_normal(cells).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), sigmaX=self.spot_size * _CELLS)
        smooth = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC)
        number = max(1, round(self.share * smooth.size))
        mask = np.zeros(smooth.size, dtype=bool)
        mask[np.argpartition(smooth, -number, axis=None)[-number:]] = True
        return mask.reshape(height, width)
