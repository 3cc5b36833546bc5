"""CMT's transformer: decoder, its layers and their attention, each with or without a bias.

Shape letters: B batch, Q queries, K tokens of the sensors, C channels, H heads, D channels of a
head, L decoder layers.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import (
    BaseTransformerLayer,
    TransformerLayerSequence,
    build_transformer_layer_sequence,
)
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule, xavier_init
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import BACKENDS, WindowedBias, biased_attention
from .precision import autocast_off

_logger = logging.getLogger('cmt_bias')
LAYER_NORM = dict(type='LN')
OPERATION_ORDER = ('self_attn', 'norm', 'cross_attn', 'norm', 'ffn', 'norm')


@MODELS.register_module(name=['CmtTransformer', 'CmtLidarTransformer', 'CmtImageTransformer'])
class CmtTransformer(BaseModule):
    """Decode object queries from the tokens of whatever sensors are there.

    The released classes for each set of sensors have the same parameters, so one serves for all.
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
        attention_bias: WindowedBias | None = None,
    ) -> Tensor:
        """Decode the queries, whose content starts at zero: ``(L, B, Q, C)``.

        Args:
            memory, memory_pos: Tokens of all sensors and their position encodings, ``(B, K, C)``.
            query_pos: ``(B, Q, C)`` position encodings.
            self_attn_mask: ``(Q, Q)``, True where a query must not see another.
            attention_bias: For the layers' cross-attention.
        """
        query = torch.zeros_like(query_pos)
        return self.decoder(query, memory, query_pos, memory_pos, self_attn_mask, attention_bias)


@MODELS.register_module()
class PETRTransformerDecoder(TransformerLayerSequence):
    """A sequence of ``num_layers`` layers, of one config or a list with one for each.

    ``post_norm_cfg`` is the normalization of each output, shared by all; None for none. With
    ``return_intermediate`` the outputs of all layers are returned instead of the last one's.
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
        self.post_norm = nn.Identity()
        if post_norm_cfg is not None:
            _, self.post_norm = build_norm_layer(post_norm_cfg, self.embed_dims)

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        query_pos: Tensor,
        memory_pos: Tensor,
        self_attn_mask: Tensor | None = None,
        attention_bias: WindowedBias | None = None,
    ) -> Tensor:
        """``(L, B, Q, C)``, or ``(1, B, Q, C)``; arguments as in :class:`CmtTransformer`."""
        outputs = []
        for number, layer in enumerate(self.layers):
            bias = None if attention_bias is None else attention_bias.of_layer(number)
            inputs = (query, memory, query_pos, memory_pos, self_attn_mask, bias)
            if layer.with_cp and self.training:
                query = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                query = layer(*inputs)
            outputs.append(query)
        with autocast_off(query):
            return self.post_norm(torch.stack(outputs if self.return_intermediate else [query]))


@MODELS.register_module()
class PETRTransformerDecoderLayer(BaseTransformerLayer):
    """Self-attention, cross-attention and FFN, each followed by a normalization.

    Args:
        attn_cfgs: Configs of self- and cross-attention.
        operation_order: Must be :data:`OPERATION_ORDER`, as in the released configs.
        feedforward_channels: Hidden channels of the FFN; None leaves ``ffn_cfgs`` as it is.
        with_cp: Recompute activations in the backward pass, to save memory in training.
        kwargs: Further arguments of mmcv's ``BaseTransformerLayer``.
    """

    def __init__(
        self,
        attn_cfgs: list[dict] | dict,
        operation_order: Sequence[str] = OPERATION_ORDER,
        feedforward_channels: int | None = None,
        with_cp: bool = True,
        **kwargs: Any,
    ) -> None:
        if tuple(operation_order) != OPERATION_ORDER:
            raise ValueError(
                f'PETRTransformerDecoderLayer: operation_order={tuple(operation_order)} must be '
                f'{OPERATION_ORDER}; remove it.'
            )
        if feedforward_channels is not None:
            ffn_cfgs = kwargs.pop('ffn_cfgs', dict(type='FFN'))
            kwargs['ffn_cfgs'] = dict(ffn_cfgs, feedforward_channels=feedforward_channels)
        super().__init__(attn_cfgs, operation_order=OPERATION_ORDER, batch_first=True, **kwargs)
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
        """Update query content ``(B, Q, C)``; other arguments as in :class:`CmtTransformer`."""
        own = dict(query_pos=query_pos, key_pos=query_pos, attn_mask=self_attn_mask)
        query = _in_float32(self.norms[0], self.attentions[0](query, query, query, **own))
        others: dict = dict(query_pos=query_pos, key_pos=memory_pos)
        if logit_bias is not None:  # an attention that gets none needs no such argument
            others['logit_bias'] = logit_bias
        query = self.cross_attention(query, memory, memory, **others)
        for module in (self.norms[1], self.ffns[0], self.norms[2]):
            query = _in_float32(module, query)
        return query

    @property
    def cross_attention(self) -> nn.Module:
        """The attention module that attends to the memory."""
        return self.attentions[1]


def _in_float32(module: nn.Module, query: Tensor) -> Tensor:
    with autocast_off(query):
        return module(query.float())


@cache  # so that the layers of a decoder warn once
def _known_backend(name: str) -> str:
    """The backend of that name, which may be one of an earlier version."""
    if name in ('flash', 'flex'):
        _logger.warning(
            "attn_cfgs: bias_backend='%s' is no more, 'auto' is taken; remove it.", name
        )
        return 'auto'
    if name not in BACKENDS:
        known = ', '.join(map(repr, BACKENDS))
        raise ValueError(f'attn_cfgs: bias_backend={name!r} is unknown; set one of {known}.')
    return name


@MODELS.register_module()
class PETRMultiheadAttention(BaseModule):
    """Multi-head attention with position encodings, a residual and dropout.

    Its parameters are those of ``torch.nn.MultiheadAttention`` under ``attn``. It runs in float32
    under mixed precision too, as the released self-attention does.

    Args:
        dropout: Of the attention probabilities and of the residual branch; None for none.
        bias_backend: A known ``backend`` of :func:`cmt_bias.ops.biased_attention`.
        batch_first: Must be true: tensors are ``(B, Q, C)``.
    """

    attention_backend = 'torch scaled_dot_product_attention'
    is_flash = False

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        dropout: float | None = 0.0,
        bias_backend: str = 'auto',
        batch_first: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not batch_first:
            raise ValueError(f'{type(self).__name__}: batch_first must be True; remove it.')
        dropout = dropout or 0.0
        self.embed_dims, self.num_heads = embed_dims, num_heads
        self.attn_drop = 0.0 if self.is_flash else dropout
        self.bias_backend = _known_backend(bias_backend)
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, batch_first=True)
        self.dropout_layer = nn.Dropout(dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        attn_mask: Tensor | None = None,
        logit_bias: WindowedBias | None = None,
    ) -> Tensor:
        """Attend, and add the query without its position: ``(B, Q, C)``, as ``query`` is.

        ``key`` and ``value`` are ``(B, K, C)``; ``attn_mask`` ``(Q, K)`` is True where a query
        must not see a key. A ``logit_bias`` takes the place of a mask and of ``attn_drop``.
        """
        with autocast_off(query):
            heads = self.project_heads(query, key, value, query_pos, key_pos)
        with nullcontext() if self.is_flash else autocast_off(query):
            if logit_bias is not None:
                attended = biased_attention(*heads, logit_bias, backend=self.bias_backend)
            else:
                attended = F.scaled_dot_product_attention(
                    *heads,
                    attn_mask=None if attn_mask is None else ~attn_mask,
                    dropout_p=self.attn_drop if self.training else 0.0,
                )
        with autocast_off(query):
            attended = attended.transpose(1, 2).flatten(2)  # (B, H, Q, D) -> (B, Q, C)
            output = self.attn.out_proj(attended.to(self.attn.out_proj.weight.dtype))
            return query + self.dropout_layer(output)

    def project_heads(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add the positions, project and split the heads: ``(B, N, C)`` to ``(B, H, N, D)``."""
        query = query if query_pos is None else query + query_pos
        key = key if key_pos is None else key + key_pos
        weights = self.attn.in_proj_weight.chunk(3)
        biases = self.attn.in_proj_bias.chunk(3)
        query, key, value = (
            F.linear(tokens.to(weight.dtype), weight, bias)
            .unflatten(-1, (self.num_heads, -1))
            .transpose(1, 2)
            for tokens, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        return query, key, value


@MODELS.register_module()
class PETRMultiheadFlashAttention(PETRMultiheadAttention):
    """The attention of the released cross-attention, with the same parameters.

    Softmax(QK')V runs in the surrounding autocast's precision. ``dropout`` concerns the residual
    branch alone, as in the published models: the released class hands it on in the wrong position.
    """

    is_flash = True
