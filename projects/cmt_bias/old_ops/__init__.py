"""Attention to windows of keys at the speed of plain flash attention; depends on torch alone."""

from .dense import dense_bias
from .operator import BACKENDS, windowed_bias_attention
from .planning import plan_windows
from .window_plan import WindowPlan
from .windowed_attention import windowed_attention

__all__ = [
    'BACKENDS',
    'WindowPlan',
    'dense_bias',
    'plan_windows',
    'windowed_attention',
    'windowed_bias_attention',
]
