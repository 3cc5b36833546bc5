"""Data pipeline of the released recipes: loading, augmentation, pasting, checks of the data."""

from .database_sampler import UnifiedDataBaseSampler
from .lidar_frame_augmentation import (
    CustomRandomFlip3D,
    GlobalRotScaleTransAll,
    GlobalRotScaleTransImage,
)
from .modal_mask import ModalMask3D, with_modality
from .multi_view_image_loading import LoadCalibratedMultiViewImages
from .nuscenes_dataset import (
    AllBoxesNuScenesDataset,
    BadFrameError,
    CheckedNuScenesDataset,
)
from .object_sample import UnifiedObjectSample
from .pasting_switch_off_hook import PastingSwitchOffHook
from .resize_crop_flip_image import ResizeCropFlipImage
from .sweep_loading import LoadAlignedSweeps

__all__ = [
    'AllBoxesNuScenesDataset',
    'BadFrameError',
    'CheckedNuScenesDataset',
    'CustomRandomFlip3D',
    'GlobalRotScaleTransAll',
    'GlobalRotScaleTransImage',
    'LoadAlignedSweeps',
    'LoadCalibratedMultiViewImages',
    'ModalMask3D',
    'PastingSwitchOffHook',
    'ResizeCropFlipImage',
    'UnifiedDataBaseSampler',
    'UnifiedObjectSample',
    'with_modality',
]
