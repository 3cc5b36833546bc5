"""CMT's transformer: object queries decoded from the tokens of the sensors."""

from collections.abc import Sequence

import torch
from mmcv.cnn.bricks.transformer import build_transformer_layer_sequence
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, xavier_init
from mmengine.registry import DefaultScope
from torch import Tensor

from ..ops import WindowedBias


@MODELS.register_module(name=['CmtTransformer', 'CmtLidarTransformer', 'CmtImageTransformer'])
class CmtTransformer(BaseModule):
    """Decode object queries from the tokens of whatever sensors are there.

    The released code has one class for each set of sensors; their parameters are the same, so one
    class serves the three names.

    Args:
        decoder: Config of the decoder.
        init_cfg: mmengine initialization config.
    """

    def __init__(self, decoder: dict, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        # mmcv looks its parts up in the default scope, which is not set outside a runner
        with DefaultScope.overwrite_default_scope('mmdet3d'):
            self.decoder = build_transformer_layer_sequence(decoder)
        self.embed_dims = self.decoder.embed_dims

    def init_weights(self) -> None:
        """Xavier-uniform weights for all matrices, as in DETR."""
        for module in self.modules():
            weight = getattr(module, 'weight', None)
            if weight is not None and weight.dim() > 1:
                xavier_init(module, distribution='uniform')
        self._is_init = True

    def forward(
        self,
        memory: Tensor,
        memory_pos: Tensor,
        query_pos: Tensor,
        self_attn_mask: Tensor | None = None,
        attention_bias: Sequence[WindowedBias] | None = None,
    ) -> Tensor:
        """Decode the queries, whose content starts at zero.

        Args:
            memory: ``(B, K, C)`` tokens of all sensors.
            memory_pos: ``(B, K, C)`` their position encodings.
            query_pos: ``(B, Q, C)``.
            self_attn_mask: ``(Q, Q)`` bool, True where a query must not see another.
            attention_bias: On the logits of each layer's cross-attention, or one for all layers.

        Returns:
            ``(L, B, Q, C)`` outputs of the decoder layers.
        """
        return self.decoder(
            torch.zeros_like(query_pos),
            memory,
            query_pos,
            memory_pos,
            self_attn_mask,
            attention_bias,
        )
