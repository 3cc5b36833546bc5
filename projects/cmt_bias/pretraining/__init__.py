"""Dense pretraining of both branches of a small detector, and the seam to its decoder.

The released recipe starts from an image backbone that others have pretrained, and trains for days.
A recipe of an hour has neither: its branches learn first, each cell by itself, what a decoder
would teach them slowly.
"""

from .dense_head import DensePretrainingHead, camera_targets
from .token_scale_hook import TokenScaleHook

__all__ = ['DensePretrainingHead', 'TokenScaleHook', 'camera_targets']
