"""CMT's transformer decoder: post-norm layers that share one final normalization."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import BaseTransformerLayer, TransformerLayerSequence
from mmdet3d.registry import MODELS
from torch import Tensor

from ..ops import WindowedBias
from .precision import float32_island

LAYER_NORM = dict(type='LN')


@MODELS.register_module()
class PETRTransformerDecoderLayer(BaseTransformerLayer):
    """Self-attention, cross-attention and FFN, each followed by a normalization.

    Under mixed precision softmax(QK')V of the cross-attention may run in half precision, as its
    module says; the rest runs in float32.

    Args:
        attn_cfgs: Configs of the attention modules, in the order of ``operation_order``.
        operation_order: Six entries out of 'self_attn', 'cross_attn', 'ffn' and 'norm', a 'norm'
            after each operation.
        feedforward_channels: Hidden channels of the FFN; None leaves ``ffn_cfgs`` as it is.
        with_cp: Recompute activations in the backward pass to save memory.
        kwargs: Further arguments of mmcv's ``BaseTransformerLayer`` (``ffn_cfgs``, ``norm_cfg``,
            ``init_cfg``).

    Raises:
        ValueError: If ``operation_order`` is not of that form.
    """

    def __init__(
        self,
        attn_cfgs: list[dict] | dict,
        operation_order: Sequence[str],
        feedforward_channels: int | None = None,
        with_cp: bool = True,
        **kwargs: Any,
    ) -> None:
        operations = sorted(operation_order[0::2])
        if operations != ['cross_attn', 'ffn', 'self_attn'] or set(operation_order[1::2]) != {
            'norm'
        }:
            raise ValueError(
                f'PETRTransformerDecoderLayer: operation_order={tuple(operation_order)} must '
                "hold 'self_attn', 'cross_attn' and 'ffn' once each, a 'norm' after each."
            )
        if feedforward_channels is not None:
            ffn_cfgs = kwargs.pop('ffn_cfgs', dict(type='FFN'))
            kwargs['ffn_cfgs'] = dict(ffn_cfgs, feedforward_channels=feedforward_channels)
        super().__init__(
            attn_cfgs=attn_cfgs,
            operation_order=tuple(operation_order),
            batch_first=True,
            **kwargs,
        )
        self.with_cp = with_cp

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        query_pos: Tensor,
        memory_pos: Tensor,
        self_attn_mask: Tensor | None = None,
        logit_bias: WindowedBias | None = None,
    ) -> Tensor:
        """Update the queries.

        Args:
            query: ``(B, Q, C)`` query content.
            memory: ``(B, K, C)`` tokens of all sensors.
            query_pos: ``(B, Q, C)``.
            memory_pos: ``(B, K, C)``.
            self_attn_mask: ``(Q, Q)`` bool, True where a query must not see another. It concerns
                self-attention alone.
            logit_bias: Added to the logits of the cross-attention, which must take it then.

        Returns:
            ``(B, Q, C)``.
        """
        inputs = (query, memory, query_pos, memory_pos, self_attn_mask, logit_bias)
        if self.with_cp and self.training:
            return torch.utils.checkpoint.checkpoint(self._update, *inputs, use_reentrant=False)
        return self._update(*inputs)

    def _update(
        self,
        query: Tensor,
        memory: Tensor,
        query_pos: Tensor,
        memory_pos: Tensor,
        self_attn_mask: Tensor | None,
        logit_bias: WindowedBias | None,
    ) -> Tensor:
        attentions, norms = iter(self.attentions), iter(self.norms)
        for operation in self.operation_order:
            if operation == 'self_attn':
                query = next(attentions)(
                    query, query_pos=query_pos, key_pos=query_pos, attn_mask=self_attn_mask
                )
            elif operation == 'cross_attn':
                # the position goes to query and key, not to the value
                bias = {} if logit_bias is None else dict(logit_bias=logit_bias)
                query = next(attentions)(
                    query,
                    memory,
                    memory,
                    query_pos=query_pos,
                    key_pos=memory_pos,
                    **bias,
                )
            else:
                with float32_island(query):
                    module = self.ffns[0] if operation == 'ffn' else next(norms)
                    query = module(query.float())
        return query

    @property
    def cross_attention(self) -> torch.nn.Module:
        """The attention module that attends to the memory."""
        roles = [name for name in self.operation_order if name.endswith('_attn')]
        return self.attentions[roles.index('cross_attn')]


@MODELS.register_module()
class PETRTransformerDecoder(TransformerLayerSequence):
    """A sequence of decoder layers.

    Args:
        transformerlayers: Config of every layer, or a list with one for each.
        num_layers: Number of layers L.
        post_norm_cfg: Config of the normalization of each output, shared by all; None for none.
        return_intermediate: Return the outputs of all layers instead of the last one's.
        init_cfg: mmengine initialization config.
    """

    def __init__(
        self,
        transformerlayers: dict | list[dict],
        num_layers: int,
        post_norm_cfg: dict | None = LAYER_NORM,
        return_intermediate: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(transformerlayers, num_layers, init_cfg)
        self.return_intermediate = return_intermediate
        self.post_norm = (
            torch.nn.Identity()
            if post_norm_cfg is None
            else build_norm_layer(post_norm_cfg, self.embed_dims)[1]
        )

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        query_pos: Tensor,
        memory_pos: Tensor,
        self_attn_mask: Tensor | None = None,
        logit_biases: Sequence[WindowedBias] | None = None,
    ) -> Tensor:
        """Run the layers; arguments as for :meth:`PETRTransformerDecoderLayer.forward`.

        ``logit_biases`` has one entry for each layer, or one for all.

        Returns:
            ``(L, B, Q, C)``, or ``(1, B, Q, C)`` without ``return_intermediate``.
        """
        outputs = []
        biases: Sequence[WindowedBias | None] = logit_biases or [None]
        biases = [*biases] * len(self.layers) if len(biases) == 1 else biases
        for layer, bias in zip(self.layers, biases, strict=True):
            query = layer(query, memory, query_pos, memory_pos, self_attn_mask, bias)
            outputs.append(query)
        kept = outputs if self.return_intermediate else outputs[-1:]
        with float32_island(query):
            return self.post_norm(torch.stack(kept))
