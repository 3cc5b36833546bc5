"""The decoder's attention modules, on torch's fused scaled dot product attention.

Shape letters: B batch, N queries, K keys, C embedding channels, H heads, D channels of a head.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch.nn.functional as F
from mmcv.cnn.bricks.drop import build_dropout
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..ops import WindowedBias, biased_attention
from .precision import float32_island


@MODELS.register_module()
class PETRMultiheadAttention(BaseModule):
    """Multi-head attention with position encodings, a residual and dropout.

    Parameters and their names are those of ``torch.nn.MultiheadAttention`` under ``attn``, as in
    the released CMT; the computation is ``torch.nn.functional.scaled_dot_product_attention``, so
    that the attention matrix is never stored where torch has a fused kernel. It runs in float32
    under mixed precision too, as the released self-attention does.

    Args:
        embed_dims: Channels C of queries, keys and values.
        num_heads: Heads H; divides ``embed_dims``.
        attn_drop: Dropout of the attention probabilities.
        proj_drop: Dropout after the output projection.
        dropout_layer: Dropout of the residual branch; None for none.
        dropout: The released configs' short form: sets ``attn_drop`` and the probability of
            ``dropout_layer`` both.
        bias: Whether the projections have a bias.
        bias_backend: How attention with a ``logit_bias`` is computed, see
            :func:`cmt_bias.ops.biased_attention`.
        batch_first: Must be true: tensors are ``(B, N, C)``.
        init_cfg: mmengine initialization config.

    Raises:
        ValueError: If ``embed_dims`` is not divisible by ``num_heads`` or ``batch_first`` is not
            true.
    """

    attention_backend = 'torch scaled_dot_product_attention'

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        dropout_layer: dict | None = None,
        dropout: float | None = None,
        bias: bool = True,
        bias_backend: str = 'auto',
        batch_first: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not batch_first:
            raise ValueError(
                f'{type(self).__name__}: batch_first=False is not supported; set '
                'batch_first=True in the attention config (or leave it out).'
            )
        if embed_dims % num_heads:
            raise ValueError(
                f'{type(self).__name__}: embed_dims={embed_dims} is not divisible by '
                f'num_heads={num_heads}.'
            )
        if dropout is not None:
            attn_drop = self._attention_drop_of_short_form(dropout)
            dropout_layer = dict(type='Dropout', drop_prob=dropout)
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.batch_first = batch_first
        self.attn_drop = attn_drop
        self.bias_backend = bias_backend
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, bias=bias, batch_first=True)
        self.proj_drop = nn.Dropout(proj_drop)
        self.dropout_layer = build_dropout(dropout_layer) if dropout_layer else nn.Identity()

    @staticmethod
    def _attention_drop_of_short_form(dropout: float) -> float:
        """What the short form ``dropout`` means for the attention probabilities."""
        return dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        attn_mask: Tensor | None = None,
        logit_bias: WindowedBias | None = None,
    ) -> Tensor:
        """Attend and add the residual.

        Args:
            query: ``(B, N, C)``.
            key: ``(B, K, C)``; the query if None (then ``query_pos`` serves as ``key_pos``).
            value: ``(B, K, C)``; the key, without its position, if None.
            identity: ``(B, N, C)`` residual; the query, without its position, if None.
            query_pos: Position encoding added to the query.
            key_pos: Position encoding added to the key.
            attn_mask: ``(N, K)`` bool, True where a query must not see a key.
            logit_bias: Added to the logits; not together with ``attn_mask`` or ``attn_drop``.

        Returns:
            ``(B, N, C)``.

        Raises:
            ValueError: If ``logit_bias`` comes with ``attn_mask`` or ``attn_drop``.
        """
        identity = query if identity is None else identity
        if key is None:
            key = query
            key_pos = query_pos if key_pos is None else key_pos
        value = key if value is None else value
        query = query if query_pos is None else query + query_pos
        key = key if key_pos is None else key + key_pos

        with float32_island(query):
            heads = self.project_heads(query, key, value)
        with self.softmax_precision(query):
            if logit_bias is None:
                attended = self.attend(*heads, attn_mask)
            else:
                self._check_logit_bias_is_alone(attn_mask)
                attended = biased_attention(*heads, logit_bias, backend=self.bias_backend)
        with float32_island(query):
            # (B, H, N, D) -> (B, N, C)
            attended = attended.to(self.attn.out_proj.weight.dtype)
            output = self.attn.out_proj(attended.transpose(1, 2).flatten(2))
            return identity + self.dropout_layer(self.proj_drop(output))

    def softmax_precision(self, reference: Tensor) -> AbstractContextManager:
        """Context of softmax(QK')V on the device of ``reference``: float32, as all the rest."""
        return float32_island(reference)

    def _check_logit_bias_is_alone(self, attn_mask: Tensor | None) -> None:
        if attn_mask is not None or self.attn_drop:
            raise ValueError(
                f'{type(self).__name__}: a logit_bias does not go together with attn_mask or '
                f'attn_drop={self.attn_drop}; set attn_drop=0 (PETRMultiheadFlashAttention has '
                'it so).'
            )

    def project_heads(
        self, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the input projections and split the heads.

        Args:
            query: ``(B, N, C)``.
            key: ``(B, K, C)``.
            value: ``(B, K, C)``.

        Returns:
            ``(B, H, N, D)``, ``(B, H, K, D)``, ``(B, H, K, D)``.
        """
        weights = self.attn.in_proj_weight.chunk(3)
        in_proj_bias = self.attn.in_proj_bias
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        query, key, value = (
            F.linear(tokens.to(weight.dtype), weight, bias)
            .unflatten(-1, (self.num_heads, -1))
            .transpose(1, 2)
            for tokens, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        return query, key, value

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None
    ) -> Tensor:
        """Attention of all heads.

        Args:
            query: ``(B, H, N, D)``.
            key: ``(B, H, K, D)``.
            value: ``(B, H, K, D)``.
            attn_mask: ``(N, K)`` bool, True where a query must not see a key.

        Returns:
            ``(B, H, N, D)``.
        """
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if attn_mask is None else ~attn_mask,
            dropout_p=self.attn_drop if self.training else 0.0,
        )


@MODELS.register_module()
class PETRMultiheadFlashAttention(PETRMultiheadAttention):
    """The attention the released recipes name for cross-attention.

    The same parameters as :class:`PETRMultiheadAttention`. The released class hands its dropout
    to the flash-attn package in the wrong position, so the published models were trained without
    dropout of the attention probabilities; here that is the definition: the short form ``dropout``
    concerns the residual branch alone.

    Raises:
        ValueError: If ``attn_drop`` is not 0.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, attn_drop: float = 0.0, **kwargs: Any
    ) -> None:
        if attn_drop:
            raise ValueError(
                f'PETRMultiheadFlashAttention has no dropout of attention probabilities, got '
                f'attn_drop={attn_drop}. Set attn_drop=0, or use PETRMultiheadAttention.'
            )
        super().__init__(embed_dims, num_heads, **kwargs)

    @staticmethod
    def _attention_drop_of_short_form(dropout: float) -> float:
        return 0.0

    def softmax_precision(self, reference: Tensor) -> AbstractContextManager:
        """The surrounding autocast's precision; the projections before and after have float32."""
        return nullcontext()
