"""The attention bias: trust weights, windows, scale, and the CMT head that uses them."""

from .attention_bias import AttentionBias, SegmentBias
from .bias_generator import AttentionBiasGenerator
from .head import AttentionBiasCmtHead
from .oracle_weights import OracleWeightGenerator
from .scale_range import clamp_with_inward_gradient
from .transformer import AttentionBiasCmtTransformer
from .weight_generators import AQRWeightGenerator, ConstantWeightGenerator, WeightGenerator
from .windows import Windows, WindowShape, find_windows

__all__ = [
    'AQRWeightGenerator',
    'AttentionBias',
    'AttentionBiasCmtHead',
    'AttentionBiasCmtTransformer',
    'AttentionBiasGenerator',
    'ConstantWeightGenerator',
    'OracleWeightGenerator',
    'SegmentBias',
    'WeightGenerator',
    'WindowShape',
    'Windows',
    'clamp_with_inward_gradient',
    'find_windows',
]
