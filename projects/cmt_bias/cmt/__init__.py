"""Cross Modal Transformer (CMT), the baseline detector; of position encodings, torch is enough."""

from ..framework import HAS_MMDET3D

if HAS_MMDET3D:
    from .bbox_coder import MultiTaskBBoxCoder
    from .criterion import BBox3DL1Cost, HungarianAssigner3D
    from .detector import CmtDetector
    from .frozen_modules import FrozenModulesMixin
    from .head import CmtHead, CmtImageHead, CmtLidarHead
    from .image_branch import CPFPN, GridMask, VoVNet
    from .local_attention_init import LocalAttentionInit
    from .task_head import SeparateTaskHead
    from .transformer import (
        CmtTransformer,
        PETRMultiheadAttention,
        PETRMultiheadFlashAttention,
        PETRTransformerDecoder,
        PETRTransformerDecoderLayer,
    )

    __all__ = [
        'CPFPN',
        'BBox3DL1Cost',
        'CmtDetector',
        'CmtHead',
        'CmtImageHead',
        'CmtLidarHead',
        'CmtTransformer',
        'FrozenModulesMixin',
        'GridMask',
        'HungarianAssigner3D',
        'LocalAttentionInit',
        'MultiTaskBBoxCoder',
        'PETRMultiheadAttention',
        'PETRMultiheadFlashAttention',
        'PETRTransformerDecoder',
        'PETRTransformerDecoderLayer',
        'SeparateTaskHead',
        'VoVNet',
    ]
