"""A LiDAR or cameras that give nothing; see :mod:`..modal_mask` for what that means."""

import numpy as np
from mmdet3d.registry import TRANSFORMS

from ..datasets.modal_mask import ModalMask3D
from .sensor_failure import SensorFailure


@TRANSFORMS.register_module()
class LiDARDrop(SensorFailure):
    """The LiDAR is missing: all its points are zero, as :class:`ModalMask3D` makes them.

    Args:
        seed: Unused; nothing is random.
    """

    spoiled = ('points',)

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        """See :meth:`SensorFailure.spoil`."""
        ModalMask3D(mode='test', mask_modal='points').transform(results)


@TRANSFORMS.register_module()
class CameraDrop(SensorFailure):
    """Some cameras are missing: their images are black. The "view drop" of nuScenes-R and MoME.

    Args:
        num_views: How many, drawn anew for each sample; None for all cameras.
        seed: Seed of the draw.

    Raises:
        ValueError: If ``num_views`` is not positive, or a sample has fewer cameras.
    """

    spoiled = ('img',)

    def __init__(self, num_views: int | None = None, seed: int = 0) -> None:
        super().__init__(seed)
        if num_views is not None and num_views < 1:
            raise ValueError(f'CameraDrop: num_views={num_views} must be 1 or more, or None')
        self.num_views = num_views

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        """See :meth:`SensorFailure.spoil`."""
        images = results['img']
        if self.num_views is None:
            ModalMask3D(mode='test', mask_modal='image').transform(results)
            return
        if self.num_views > len(images):
            raise ValueError(
                f'CameraDrop: num_views={self.num_views}, but a sample has {len(images)} cameras'
            )
        dropped = set(rng.permutation(len(images))[: self.num_views].tolist())
        results['img'] = [
            np.zeros_like(image) if view in dropped else image for view, image in enumerate(images)
        ]
