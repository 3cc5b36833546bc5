"""The attention bias: windows, trust weights, scale, and the CMT head that uses them.

Scale, windows and generator need torch alone; what a config names is there with mmdet3d.
"""

from ..framework import HAS_MMDET3D
from .generator import AttentionBiasGenerator
from .scale import BiasScale, clamp_with_inward_gradient
from .windows import find_windows

__all__ = ['AttentionBiasGenerator', 'BiasScale', 'clamp_with_inward_gradient', 'find_windows']

if HAS_MMDET3D:
    from .head import AttentionBiasCmtHead
    from .range_hook import BiasScaleRangeHook
    from .transformer import AttentionBiasCmtTransformer
    from .weights import (
        AQRWeightGenerator,
        ConstantWeightGenerator,
        OracleWeightGenerator,
        WeightGenerator,
    )

    __all__ += [
        'AQRWeightGenerator',
        'AttentionBiasCmtHead',
        'AttentionBiasCmtTransformer',
        'BiasScaleRangeHook',
        'ConstantWeightGenerator',
        'OracleWeightGenerator',
        'WeightGenerator',
    ]
