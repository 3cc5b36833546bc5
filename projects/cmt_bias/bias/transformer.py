"""CMT's transformer with a bias on the cross-attention of its decoder layers."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor

from ..cmt.transformer import CmtTransformer
from .attention_bias import AttentionBias


@MODELS.register_module()
class AttentionBiasCmtTransformer(CmtTransformer):
    """A CMT transformer that hands each decoder layer its bias.

    The bias goes to the cross-attention, the module that stands for 'cross_attn' in a layer's
    ``operation_order``, and to nothing else.

    Args:
        decoder: Config of the decoder.
        init_cfg: mmengine initialization config.

    Raises:
        TypeError: If a cross-attention cannot take a bias.
        ValueError: If a cross-attention has dropout of its probabilities.
    """

    def __init__(self, decoder: dict, init_cfg: dict | None = None) -> None:
        super().__init__(decoder, init_cfg)
        for layer in self.decoder.layers:
            self._check_takes_bias(layer.cross_attention)

    @staticmethod
    def _check_takes_bias(attention: torch.nn.Module) -> None:
        name = type(attention).__name__
        if 'logit_bias' not in inspect.signature(attention.forward).parameters:
            raise TypeError(
                f'AttentionBiasCmtTransformer: the cross-attention {name} cannot take a bias (its '
                "forward has no argument 'logit_bias'); use PETRMultiheadFlashAttention or "
                'PETRMultiheadAttention in transformerlayers.attn_cfgs.'
            )
        if getattr(attention, 'attn_drop', 0):
            raise ValueError(
                f'AttentionBiasCmtTransformer: the cross-attention {name} has attn_drop='
                f'{attention.attn_drop}, which attention with a bias does not have; set '
                'attn_drop=0 or use PETRMultiheadFlashAttention in transformerlayers.attn_cfgs.'
            )

    def forward(
        self,
        memory: Tensor,
        memory_pos: Tensor,
        query_pos: Tensor,
        self_attn_mask: Tensor | None = None,
        cross_attn_inputs: Sequence[Mapping[str, Any]] | None = None,
        attention_bias: AttentionBias | None = None,
    ) -> Tensor:
        """Decode the queries; see :meth:`CmtTransformer.forward`.

        Args:
            memory: ``(B, K, C)``.
            memory_pos: ``(B, K, C)``.
            query_pos: ``(B, Q, C)``.
            self_attn_mask: ``(Q, Q)`` bool.
            cross_attn_inputs: One entry for each layer; not together with ``attention_bias``.
            attention_bias: Bias on the cross-attention; None for none.

        Returns:
            ``(L, B, Q, C)``.
        """
        if attention_bias is not None:
            layers = range(self.decoder.num_layers)
            cross_attn_inputs = [
                dict(logit_bias=attention_bias.for_layer(layer)) for layer in layers
            ]
        return super().forward(memory, memory_pos, query_pos, self_attn_mask, cross_attn_inputs)
