"""CMT's transformer: tokens of the sensors joined into one memory, and the decoder."""

import torch
from mmcv.cnn.bricks.transformer import build_transformer_layer_sequence
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, xavier_init
from mmengine.registry import DefaultScope
from torch import Tensor


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
        bev_tokens: Tensor | None,
        camera_tokens: Tensor | None,
        query_pos: Tensor,
        bev_pos: Tensor | None,
        camera_pos: Tensor | None,
        self_attn_mask: Tensor | None = None,
    ) -> Tensor:
        """Decode the queries, whose content starts at zero.

        Args:
            bev_tokens: ``(B, H * W, C)`` LiDAR tokens, row-major; None without LiDAR.
            camera_tokens: ``(B, V * h * w, C)`` camera tokens; None without cameras.
            query_pos: ``(B, Q, C)``.
            bev_pos: ``(B, H * W, C)``; None without LiDAR.
            camera_pos: ``(B, V * h * w, C)``; None without cameras.
            self_attn_mask: ``(Q, Q)`` bool, True where a query must not see another.

        Returns:
            ``(L, B, Q, C)`` outputs of the decoder layers.

        Raises:
            ValueError: If there are no tokens at all.
        """
        memory = [tokens for tokens in (bev_tokens, camera_tokens) if tokens is not None]
        memory_pos = [pos for pos in (bev_pos, camera_pos) if pos is not None]
        if not memory:
            raise ValueError('CmtTransformer: neither LiDAR nor camera tokens were given.')
        return self.decoder(
            torch.zeros_like(query_pos),
            torch.cat(memory, dim=1),
            query_pos,
            torch.cat(memory_pos, dim=1),
            self_attn_mask,
        )
