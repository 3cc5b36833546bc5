"""The attention bias: trust weights, windows, scale, and the CMT head that uses them."""

from .generator import AttentionBiasGenerator
from .head import AttentionBiasCmtHead
from .range_hook import BiasScaleRangeHook
from .scale import BiasScale, clamp_with_inward_gradient
from .transformer import AttentionBiasCmtTransformer
from .weights import (
    AQRWeightGenerator,
    ConstantWeightGenerator,
    OracleWeightGenerator,
    WeightGenerator,
)
from .windows import find_windows

__all__ = [
    'AQRWeightGenerator',
    'AttentionBiasCmtHead',
    'AttentionBiasCmtTransformer',
    'AttentionBiasGenerator',
    'BiasScale',
    'BiasScaleRangeHook',
    'ConstantWeightGenerator',
    'OracleWeightGenerator',
    'WeightGenerator',
    'clamp_with_inward_gradient',
    'find_windows',
]
