"""Attention's products on the keys in windows, group by group.

Shape letters as in :mod:`cmt_bias.ops.window_plan`; H heads, D channels of a head.

Scores are recomputed in the backward pass; what is alive at once is one chunk's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .window_plan import WindowChunk, WindowPlan

# e^80 is finite in float32
_LARGEST_EXPONENT = 80.0


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the products of tensors of this type are computed in: float32 for half precision."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def refuse_second_derivative(name: str) -> None:
    """Raise RuntimeError in a backward pass of which derivatives are wanted in turn."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f'{name} can be differentiated once only: call backward without create_graph=True.'
        )


def to_rows(tokens: Tensor) -> Tensor:
    """``(B, H, N, D)`` to ``(B * N, H * D)``: a view if heads were split off by ``view``."""
    return tokens.transpose(1, 2).flatten(2).flatten(0, 1)


def from_rows(rows: Tensor, batch: int, heads: int) -> Tensor:
    """``(B * N, H * D)`` to ``(B, H, N, D)``, a view."""
    return rows.view(batch, -1, heads, rows.shape[1] // heads).transpose(1, 2)


@dataclass(frozen=True)
class WindowRows:
    """Queries, keys and values of all batch elements as rows.

    Attributes:
        query: ``(B * Q, H * D)``.
        key: ``(B * K, H * D)``.
        value: ``(B * K, H * D)``.
        heads: H.
        scale: Factor on the products of queries and keys.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    heads: int
    scale: float

    @classmethod
    def of(cls, query: Tensor, key: Tensor, value: Tensor, scale: float) -> 'WindowRows':
        """From ``(B, H, Q, D)``, ``(B, H, K, D)``, ``(B, H, K, D)``."""
        return cls(to_rows(query), to_rows(key), to_rows(value), query.shape[1], scale)

    def queries_of(self, chunk: WindowChunk) -> Tensor:
        """``(G, N, H, D)`` scaled queries."""
        return self.gather_members(self.query, chunk) * self.scale

    def gather_members(self, rows: Tensor, chunk: WindowChunk) -> Tensor:
        """Rows of the members, ``(B * Q, H * X)`` to ``(G, N, H, X)``, in computing precision."""
        gathered = rows.index_select(0, chunk.query_rows)
        return gathered.to(compute_dtype(rows.dtype)).view(*chunk.shape[:2], self.heads, -1)

    def gather_keys(self, rows: Tensor, chunk: WindowChunk) -> Tensor:
        """Rows of the keys, ``(B * K, H * D)`` to ``(G, U, H, D)``, in computing precision."""
        gathered = rows.index_select(0, chunk.key_rows).to(compute_dtype(rows.dtype))
        return gathered.view(chunk.shape[0], chunk.shape[2], self.heads, -1)


def dot(left: Tensor, right: Tensor) -> Tensor:
    """``(G, N, H, D)`` and ``(G, U, H, D)`` to their products ``(H, G, N, U)``."""
    return _matmul(left.permute(2, 0, 1, 3), right.permute(2, 0, 3, 1))


def mix(weights: Tensor, rows: Tensor) -> Tensor:
    """Sums of rows ``(G, U, H, D)`` with weights ``(H, G, N, U)``: ``(G, N, H, D)``."""
    return _matmul(weights, rows.permute(2, 0, 1, 3)).permute(1, 2, 0, 3)


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """Matrix products of ``(H, G, X, Y)`` and ``(H, G, Y, Z)``, contiguous ``(H, G, X, Z)``."""
    if left.device.type != 'cpu':
        return torch.matmul(left, right)
    # One product over both leading axes would first copy its arguments to make one axis of them.
    # bmm takes them as they are, but its result must be contiguous: into any other it multiplies
    # matrix by matrix, in one thread.
    products = left.new_empty(*left.shape[:3], right.shape[-1])
    for arguments in zip(left, right, products, strict=True):
        torch.bmm(*arguments[:2], out=arguments[2])
    return products


def sum_windows(
    plan: WindowPlan, rows: WindowRows, reference: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """``sum of w_k exp(s_k - reference) v_k`` over each query's windows, and the same without v.

    Args:
        plan: The windows.
        rows: Queries, keys, values.
        reference: ``(B * Q, H)``, not much below the largest score ``s_k``.
        weights: Table of w.

    Returns:
        ``(B * Q, H * D)`` and ``(B * Q, H)``.
    """
    numerator = torch.zeros_like(rows.query, dtype=compute_dtype(rows.query.dtype))
    denominator = torch.zeros_like(reference)
    for chunk in plan.chunks:
        shift = rows.gather_members(reference, chunk).permute(2, 0, 1, 3)
        scores = dot(rows.queries_of(chunk), rows.gather_keys(rows.key, chunk))
        terms = scores.sub_(shift).exp_().mul_(chunk.part_of(weights))
        sums = mix(terms, rows.gather_keys(rows.value, chunk))
        numerator.index_add_(0, chunk.query_rows, sums.flatten(2).flatten(0, 1))
        denominator.index_add_(0, chunk.query_rows, terms.sum(-1).flatten(1).t())
    return numerator, denominator


@dataclass(frozen=True)
class WindowGradients:
    """Where the backward pass adds the window keys' terms.

    Attributes:
        query: ``(B * Q, H * D)``.
        key: ``(B * K, H * D)``.
        value: ``(B * K, H * D)``.
    """

    query: Tensor
    key: Tensor
    value: Tensor


def add_window_gradients(
    plan: WindowPlan,
    rows: WindowRows,
    grad_output: Tensor,
    reference: Tensor,
    delta: Tensor,
    weights: Tensor,
    gradients: WindowGradients,
) -> Tensor:
    """Add the gradients of attention whose probabilities are ``p_k = w_k exp(s_k - reference)``.

    Args:
        plan: The windows.
        rows: Queries, keys, values.
        grad_output: ``(B * Q, H * D)``.
        reference: ``(B * Q, H)``.
        delta: ``(B * Q, H)`` products of ``grad_output`` and the output.
        weights: Table of w.
        gradients: What is added to, in place.

    Returns:
        Table with ``sum over heads of exp(s_k - reference) * (grad_output . v_k - delta)``: times
        a pair's weight the gradient of its logit.
    """
    pairs = torch.empty_like(weights)
    for chunk in plan.chunks:
        part = chunk.part_of(weights)
        query, key = rows.queries_of(chunk), rows.gather_keys(rows.key, chunk)
        grad, value = rows.gather_members(grad_output, chunk), rows.gather_keys(rows.value, chunk)
        scores = dot(query, key).sub_(rows.gather_members(reference, chunk).permute(2, 0, 1, 3))
        powers = scores.clamp_(max=_LARGEST_EXPONENT).exp_()
        grad_scores = dot(grad, value).sub_(rows.gather_members(delta, chunk).permute(2, 0, 1, 3))
        grad_scores.mul_(powers)
        torch.sum(grad_scores, dim=0, out=chunk.part_of(pairs))
        _add(gradients.value, chunk.key_rows, mix(powers.mul_(part).mT, grad))
        grad_scores.mul_(part)
        _add(gradients.query, chunk.query_rows, mix(grad_scores, key).mul_(rows.scale))
        _add(gradients.key, chunk.key_rows, mix(grad_scores.mT, query))
    return pairs


def _add(rows: Tensor, index: Tensor, terms: Tensor) -> None:
    """Add terms ``(G, X, H, D)`` to the rows of the index ``(G * X,)``."""
    rows.index_add_(0, index, terms.flatten(2).flatten(0, 1))
