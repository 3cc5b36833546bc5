"""Queries, keys and values as rows of all batch elements, and their gradients.

Shape letters as in :mod:`cmt_bias.ops.window_plan`; H heads, D channels of a head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


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

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return compute_dtype(self.query.dtype)


@dataclass(frozen=True)
class WindowGradients:
    """Where the backward pass adds the window keys' terms, in computing precision.

    Attributes:
        query: ``(B * Q, H * D)``.
        key: ``(B * K, H * D)``.
        value: ``(B * K, H * D)``.
    """

    query: Tensor
    key: Tensor
    value: Tensor

    @classmethod
    def zeros(cls, rows: WindowRows) -> 'WindowGradients':
        """No gradients yet."""
        tensors = (rows.query, rows.key, rows.value)
        return cls(*(torch.zeros_like(part, dtype=rows.dtype) for part in tensors))
