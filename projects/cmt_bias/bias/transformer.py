"""CMT's transformer with a bias on the cross-attention of its decoder layers."""

import inspect

from mmdet3d.registry import MODELS

from ..cmt.transformer import CmtTransformer


@MODELS.register_module()
class AttentionBiasCmtTransformer(CmtTransformer):
    """A CMT transformer, of the same arguments, whose cross-attentions can take a bias.

    Raises:
        TypeError: If a cross-attention cannot take a bias.
        ValueError: If a cross-attention has dropout of its probabilities.
    """

    def __init__(self, decoder: dict, init_cfg: dict | None = None) -> None:
        super().__init__(decoder, init_cfg)
        for layer in self.decoder.layers:
            attention = layer.cross_attention
            prefix = f'{type(self).__name__}: the cross-attention {type(attention).__name__}'
            if 'logit_bias' not in inspect.signature(attention.forward).parameters:
                raise TypeError(
                    f"{prefix} cannot take a bias (its forward has no argument 'logit_bias'); use "
                    'PETRMultiheadFlashAttention or PETRMultiheadAttention in '
                    'transformerlayers.attn_cfgs.'
                )
            if getattr(attention, 'attn_drop', 0):
                raise ValueError(
                    f'{prefix} has dropout={attention.attn_drop} of its probabilities, which '
                    'attention with a bias does not have; set dropout=0 or use '
                    'PETRMultiheadFlashAttention in transformerlayers.attn_cfgs.'
                )
