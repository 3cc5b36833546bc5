"""Attention to the keys in a query's own windows alone.

Shape letters as in :mod:`cmt_bias.ops.window_plan`; H heads, D channels of a head.
"""

from typing import Any

import torch
from torch import Tensor

from .operator import autocast, check_attention
from .window_plan import WindowChunk, WindowPlan, plan_windows
from .window_products import (
    WindowGradients,
    WindowRows,
    add_window_gradients,
    compute_dtype,
    dot,
    from_rows,
    mix,
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
        output, logsumexp = _attend(plan, WindowRows.of(query, key, value, scale))
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
        dtype = logsumexp.dtype
        rows = WindowRows.of(query, key, value, ctx.scale)
        delta = (grad_output * output.to(dtype)).sum(-1, keepdim=True)
        grads = WindowGradients(
            *(torch.zeros_like(part, dtype=dtype) for part in (rows.query, rows.key, rows.value))
        )
        with torch.autocast(query.device.type, enabled=False):
            add_window_gradients(
                ctx.plan,
                rows,
                to_rows(grad_output),
                logsumexp,
                to_rows(delta),
                _inside(ctx.plan, dtype),
                grads,
            )
        return (
            *(
                from_rows(grad, batch, heads).to(query.dtype)
                for grad in (grads.query, grads.key, grads.value)
            ),
            None,
            None,
        )


def _inside(plan: WindowPlan, dtype: torch.dtype) -> Tensor:
    """Table with 1 for pairs in the windows, 0 elsewhere."""
    return plan.to_table(torch.ones_like(plan.place, dtype=dtype))


def _attend(plan: WindowPlan, rows: WindowRows) -> tuple[Tensor, Tensor]:
    """Softmax in the windows.

    A query's windows may be members of several groups. Each member attends by itself, and a
    query's members are joined by their largest scores and sums.

    Returns:
        ``(B * Q, H * D)`` output and ``(B * Q, H)`` log-sum-exp, both 0 for a query without keys.
    """
    dtype = compute_dtype(rows.query.dtype)
    inside = _inside(plan, dtype)
    members = [_attend_chunk(chunk.part_of(inside), chunk, rows) for chunk in plan.chunks]
    num_rows = len(rows.query)
    total = rows.query.new_zeros(num_rows, rows.heads, dtype=dtype)
    output = torch.zeros_like(rows.query, dtype=dtype)
    if not members:
        return output, total
    largest, mass, sums = (torch.cat(parts) for parts in zip(*members, strict=True))
    query_rows = torch.cat([chunk.query_rows for chunk in plan.chunks])
    top = torch.full_like(total, -torch.inf)
    top.scatter_reduce_(0, query_rows[:, None].expand_as(largest), largest, 'amax')
    top = top.where(top > -torch.inf, 0)
    share = (largest - top[query_rows]).exp()
    total.index_add_(0, query_rows, mass * share)
    sums = sums.unflatten(1, (rows.heads, -1)).mul_(share.unsqueeze(-1))
    output.index_add_(0, query_rows, sums.flatten(1))
    safe = total.where(total > 0, 1)
    output = output.unflatten(1, (rows.heads, -1)) / safe.unsqueeze(-1)
    return output.flatten(1), top + safe.log()


def _attend_chunk(
    inside: Tensor, chunk: WindowChunk, rows: WindowRows
) -> tuple[Tensor, Tensor, Tensor]:
    """Each member's ``(G * N, H)`` largest score and sum of powers, ``(G * N, H * D)`` sums of v.

    Args:
        inside: ``(G, N, U)`` 1 for keys in a member's window, 0 elsewhere.
        chunk: The chunk.
        rows: Queries, keys, values.
    """
    scores = dot(rows.queries_of(chunk), rows.gather_keys(rows.key, chunk))
    scores.masked_fill_(inside == 0, -torch.inf)
    largest = scores.amax(-1, keepdim=True)
    # of a member that only pads its group: no key, -inf
    terms = scores.sub_(largest.clamp(min=torch.finfo(scores.dtype).min)).exp_()
    sums = mix(terms, rows.gather_keys(rows.value, chunk))
    return (
        largest.flatten(1).t(),
        terms.sum(-1).flatten(1).t(),
        sums.flatten(2).flatten(0, 1),
    )
