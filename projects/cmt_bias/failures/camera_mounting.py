"""Cameras whose pictures are not where they belong; the calibration does not know it."""

import cv2
import numpy as np
from mmdet3d.registry import TRANSFORMS

from .sensor_failure import SensorFailure
from .spoiled_parts import SpoiledPart, check_num_views, chosen_views, with_views


@TRANSFORMS.register_module()
class CameraMirror(SensorFailure):
    """Cameras that show left and right exchanged.

    Args:
        num_views: How many cameras, drawn anew for each sample; None for all.
        seed: Seed of the draw.

    Raises:
        ValueError: If ``num_views`` is not positive.
    """

    spoiled = ('img',)

    def __init__(self, num_views: int | None = None, seed: int = 0) -> None:
        super().__init__(seed)
        check_num_views(num_views, 'CameraMirror')
        self.num_views = num_views

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        """See :meth:`SensorFailure.spoil`."""
        images = results['img']
        views = chosen_views(self.num_views, len(images), rng)
        mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
        results['img'] = with_views(images, views, mirrored)
        return SpoiledPart(views=views)


@TRANSFORMS.register_module()
class CameraShift(SensorFailure):
    """Cameras that were knocked aside: their pictures are shifted to the left or right.

    A shift by a tenth of the width turns a camera of nuScenes by about 6 degrees; what it does not
    see any more is black.

    Args:
        share: Shift as a share of the width, to either side.
        num_views: How many cameras, drawn anew for each sample; None for all.
        seed: Seed of the draw.

    Raises:
        ValueError: If ``share`` is not within (0, 1), or ``num_views`` not positive.
    """

    spoiled = ('img',)

    def __init__(self, share: float = 0.15, num_views: int | None = None, seed: int = 0) -> None:
        super().__init__(seed)
        if not 0 < share < 1:
            raise ValueError(f'CameraShift: share={share} must lie within (0, 1)')
        check_num_views(num_views, 'CameraShift')
        self.share = share
        self.num_views = num_views

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        """See :meth:`SensorFailure.spoil`."""
        images = results['img']
        views = chosen_views(self.num_views, len(images), rng)
        signs = rng.choice((-1, 1), len(images))
        shifted = [self._shift(image, sign) for image, sign in zip(images, signs, strict=True)]
        results['img'] = with_views(images, views, shifted)
        return SpoiledPart(views=views)

    def _shift(self, image: np.ndarray, sign: int) -> np.ndarray:
        height, width = image.shape[:2]
        motion = np.array([[1.0, 0.0, sign * round(self.share * width)], [0.0, 1.0, 0.0]])
        return cv2.warpAffine(image, motion, (width, height), flags=cv2.INTER_NEAREST)
