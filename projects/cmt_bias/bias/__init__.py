"""The attention bias: trust weights, windows, scale, and the CMT head that uses them."""

from .attention_bias import AttentionBias, SegmentBias
from .generator import AttentionBiasGenerator
from .head import AttentionBiasCmtHead
from .range_hook import BiasScaleRangeHook
from .scale import clamp_with_inward_gradient
from .transformer import AttentionBiasCmtTransformer
from .weights.oracle import OracleWeightGenerator
from .weights.router import AQRWeightGenerator, ConstantWeightGenerator, WeightGenerator
from .windows import Windows, WindowShape, find_windows

__all__ = [
    'AQRWeightGenerator',
    'AttentionBias',
    'AttentionBiasCmtHead',
    'AttentionBiasCmtTransformer',
    'AttentionBiasGenerator',
    'BiasScaleRangeHook',
    'ConstantWeightGenerator',
    'OracleWeightGenerator',
    'SegmentBias',
    'WeightGenerator',
    'WindowShape',
    'Windows',
    'clamp_with_inward_gradient',
    'find_windows',
]
