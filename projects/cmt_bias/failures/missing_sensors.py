"""A LiDAR or cameras that give nothing; see :mod:`..modal_mask` for what that means."""

import numpy as np
from mmdet3d.registry import TRANSFORMS

from ..datasets.modal_mask import ModalMask3D
from .sensor_failure import SensorFailure
from .spoiled_parts import SpoiledPart, check_num_views, chosen_views, with_views


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
        check_num_views(num_views, 'CameraDrop')
        self.num_views = num_views

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart | None:
        """See :meth:`SensorFailure.spoil`."""
        images = results['img']
        if self.num_views is None:
            ModalMask3D(mode='test', mask_modal='image').transform(results)
            return None
        views = chosen_views(self.num_views, len(images), rng)
        results['img'] = with_views(images, views, [np.zeros_like(image) for image in images])
        return SpoiledPart(views=views)
