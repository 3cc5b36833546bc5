"""Data pipeline of the released recipes: loading, augmentation, pasting, checks of the data."""

from .augmentation import (
    CustomRandomFlip3D,
    GlobalRotScaleTransAll,
    GlobalRotScaleTransImage,
    ResizeCropFlipImage,
)
from .loading import LoadAlignedSweeps, LoadCalibratedMultiViewImages
from .modal_mask import ModalMask3D, with_modality
from .nuscenes_dataset import AllBoxesNuScenesDataset, BadFrameError, CheckedNuScenesDataset
from .object_database import UnifiedDataBaseSampler
from .object_sample import PastingSwitchOffHook, UnifiedObjectSample

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
