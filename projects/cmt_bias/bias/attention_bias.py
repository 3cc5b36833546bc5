"""The additive bias on a decoder's cross-attention logits, kept sparse.

Shape letters: B batch, Q queries, K keys (tokens of the memory), W window slots, L decoder layers,
H heads, D channels of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from ..old_ops import WindowPlan, dense_bias, windowed_bias_attention


class SegmentBias(NamedTuple):
    """One bias for all keys of a range.

    Attributes:
        start: First key.
        stop: Key after the last.
        values: ``(B, Q)``, or ``(L, B, Q)`` with values for each layer.
    """

    start: int
    stop: int
    values: Tensor


@dataclass(frozen=True)
class AttentionBias:
    """A bias that is zero but for the keys in each query's windows.

    Attributes:
        index: ``(B, Q, W)`` int64 keys, -1 where a slot has none.
        values: ``(B, Q, W)``, or ``(L, B, Q, W)`` with values for each layer. What a slot without
            a key holds is not used.
        segments: Biases on whole modalities, added to the windows'.
        plan: What :func:`cmt_bias.ops.plan_windows` found out about ``index``, shared by the
            layers; None to find it out at each use.
    """

    index: Tensor
    values: Tensor
    segments: Sequence[SegmentBias] = ()
    plan: WindowPlan | None = None

    def for_layer(self, layer: int) -> 'AttentionBias':
        """The bias of one decoder layer, without the axis L."""
        values = self.values[layer] if self.values.dim() == 4 else self.values
        segments = tuple(
            s._replace(values=s.values[layer]) if s.values.dim() == 3 else s for s in self.segments
        )
        return replace(self, values=values, segments=segments)

    def for_queries(self, queries: Tensor) -> 'AttentionBias':
        """The bias of some queries.

        Args:
            queries: ``(n,)`` int64 numbers of queries.

        Returns:
            The bias with an axis of n queries, in their order.
        """
        segments = tuple(s._replace(values=s.values[..., queries]) for s in self.segments)
        return AttentionBias(self.index[:, queries], self.values[..., queries, :], segments)

    def to_dense(self, num_keys: int) -> Tensor:
        """The plain reference.

        Args:
            num_keys: K.

        Returns:
            ``(B, Q, K)``, or ``(L, B, Q, K)`` where the layers differ. A key that is in a window
            twice has the sum.
        """
        return dense_bias(self.index, self.values, num_keys, self.segments)

    def to_mask(self, num_keys: int) -> Tensor:
        """Which keys have a bias, be it zero.

        Args:
            num_keys: K.

        Returns:
            ``(B, Q, K)`` bool, True for the keys in a query's windows and in segments.
        """
        ones = self.index.new_ones(self.index.shape)
        segments = [
            SegmentBias(start, stop, ones.new_ones(ones.shape[:2]))
            for start, stop, _ in self.segments
        ]
        return dense_bias(self.index, ones, num_keys, segments) > 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor, backend: str = 'auto') -> Tensor:
        """Attention with this bias on its logits; for a bias of one layer.

        Args:
            query: ``(B, H, Q, D)``.
            key: ``(B, H, K, D)``.
            value: ``(B, H, K, D)``.
            backend: See :func:`cmt_bias.ops.windowed_bias_attention`.

        Returns:
            ``(B, H, Q, D)``.
        """
        return windowed_bias_attention(
            query,
            key,
            value,
            self.index,
            self.values,
            backend=backend,
            plan=self.plan,
            segments=tuple(self.segments),
        )
