"""Attention to the keys in a query's own windows alone.

Shape letters as in :mod:`cmt_bias.ops.window_plan`; H heads, D channels of a head.
"""

from typing import Any

import torch
from torch import Tensor

from .operator import autocast, check_attention
from .planning import plan_windows
from .window_plan import WindowPlan
from .window_rows import (
    WindowGradients,
    WindowRows,
    from_rows,
    refuse_second_derivative,
    to_rows,
)


def windowed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    scale: float | None = None,
    *,
    plan: WindowPlan | None = None,
) -> Tensor:
    """Scaled dot product attention to the keys in each query's windows, and no others.

    Differentiable once in query, key and value. The other keys cost nothing.

    Args:
        query: ``(B, H, Q, D)``.
        key: ``(B, H, K, D)``.
        value: ``(B, H, K, D)``.
        index: ``(B, Q, W)`` int64 keys, -1 for none. A key named twice counts once: the windows
            are sets of keys.
        scale: Factor on the products of queries and keys; ``D ** -0.5`` if None.
        plan: What :func:`plan_windows` made of ``index`` and K, where several calls share them.

    Returns:
        ``(B, H, Q, D)`` in the query's type; zeros for a query without any key.

    Raises:
        ValueError: If shapes or types do not agree.
    """
    query, key, value = autocast(query, key, value)
    check_attention(query, key, value, index, plan)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    plan = plan_windows(index, key.shape[2]) if plan is None else plan
    with torch.autocast(query.device.type, enabled=False):
        return _WindowedAttention.apply(query, key, value, scale, plan)


class _WindowedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, plan: WindowPlan
    ) -> Tensor:
        """Attend; keeps output and log-sum-exp for the backward pass, nothing larger."""
        batch, heads = query.shape[:2]
        output, logsumexp = plan.attend(WindowRows.of(query, key, value, scale))
        output = from_rows(output, batch, heads).to(query.dtype)
        ctx.scale, ctx.plan = scale, plan
        ctx.save_for_backward(query, key, value, output, logsumexp)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        """Gradients of query, key and value."""
        refuse_second_derivative('windowed_attention')
        query, key, value, output, logsumexp = ctx.saved_tensors
        batch, heads = query.shape[:2]
        rows = WindowRows.of(query, key, value, ctx.scale)
        delta = (grad_output * output.to(logsumexp.dtype)).sum(-1, keepdim=True)
        grads = WindowGradients.zeros(rows)
        with torch.autocast(query.device.type, enabled=False):
            weights = ctx.plan.inside(rows.dtype)
            ctx.plan.add_gradients(
                rows, to_rows(grad_output), logsumexp, to_rows(delta), weights, grads
            )
        return (
            *(
                from_rows(grad, batch, heads).to(query.dtype)
                for grad in (grads.query, grads.key, grads.value)
            ),
            None,
            None,
        )
