"""What stays in float32 under mixed precision."""

import torch
from torch import Tensor


def autocast_off(reference: Tensor) -> torch.autocast:
    """Context in which autocast is off on the device of ``reference``, also when recomputed.

    The released CMT trains in half precision only the image backbone and neck, the LiDAR neck
    and, of the head, softmax(QK')V of the cross-attention. mmengine's ``AmpOptimWrapper`` casts
    everything instead, which overflows in the voxel features and in the box regression. Code that
    enters this context casts its inputs with ``.float()`` itself.
    """
    return torch.autocast(device_type=reference.device.type, enabled=False)
