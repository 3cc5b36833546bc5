"""Attention with a bias on windows of keys at the speed of plain flash attention.

Depends on torch alone.
"""

from .dense import dense_bias
from .geometry import (
    MODALITIES,
    NOT_SEEN,
    Modality,
    QueryWindows,
    TokenLayout,
    Window,
    WindowedBias,
)
from .operator import BACKENDS, biased_attention, window_attention

__all__ = [
    'BACKENDS',
    'MODALITIES',
    'NOT_SEEN',
    'Modality',
    'QueryWindows',
    'TokenLayout',
    'Window',
    'WindowedBias',
    'biased_attention',
    'dense_bias',
    'window_attention',
]
