"""Attention with a bias that lies on few keys of each query."""

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .dense import dense_attention
from .flash import flash_attention
from .flash_kernels import why_not_flash
from .flex import flex_attention, why_not_flex
from .planning import plan_windows
from .segments import Segment, find_ranges
from .window_plan import WindowPlan

Backend = Literal['auto', 'dense', 'flash', 'flex']
BACKENDS: tuple[Backend, ...] = ('auto', 'dense', 'flash', 'flex')

_logger = logging.getLogger('cmt_bias')
_logged_choices: set[str] = set()


def windowed_bias_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    bias: Tensor,
    scale: float | None = None,
    backend: str = 'auto',
    *,
    plan: WindowPlan | None = None,
    segments: Sequence[Segment] = (),
) -> Tensor:
    """Scaled dot product attention with a bias on the logits of the keys in windows.

    ``softmax(scale * query . key + bias) value``, the bias being the same for all heads. It is
    differentiable once in query, key, value, bias and the segments' values. Attention
    probabilities have no dropout.

    Args:
        query: ``(B, H, Q, D)``.
        key: ``(B, H, K, D)``.
        value: ``(B, H, K, D)``.
        index: ``(B, Q, W)`` int64 keys, -1 for none. A key named twice gets the sum of its
            biases.
        bias: ``(B, Q, W)``, best in float32 whatever the type of the query. Together with a
            segment's value up to about 80 in absolute value.
        scale: Factor on the products of queries and keys; ``D ** -0.5`` if None.
        backend: ``'dense'``: one mask for all heads, the reference, in float32 at least.
            ``'flash'``: the fused kernel and a correction on the window keys. ``'flex'``:
            ``flex_attention``. ``'auto'``: the fastest that can.
        plan: What :func:`plan_windows` made of ``index`` and K, where several calls share them.
        segments: Biases on ranges of keys that do not overlap, ``(start, stop, values (B, Q))``;
            added to the windows'.

    Returns:
        ``(B, H, Q, D)`` in the query's type; under autocast in autocast's.

    Raises:
        ValueError: If shapes or types do not agree, or the backend is unknown.
        RuntimeError: If the named backend cannot run; says why.
    """
    query, key, value = autocast(query, key, value)
    _check(query, key, value, index, bias, plan, segments)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    chosen = _choose(backend, query, key, value, bias, segments)
    with torch.autocast(query.device.type, enabled=False):
        if chosen == 'dense':
            return dense_attention(query, key, value, index, bias, scale, segments)
        if chosen == 'flex':
            return flex_attention(query, key, value, index, bias, scale, segments)
        plan = plan_windows(index, key.shape[2]) if plan is None else plan
        return flash_attention(query, key, value, index, bias, scale, plan, segments)


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast as autocast does for torch's own attention."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    bias: Tensor,
    plan: WindowPlan | None,
    segments: Sequence[Segment],
) -> None:
    check_attention(query, key, value, index, plan)
    if bias.shape != index.shape:
        raise ValueError(
            f'bias and index must have one shape, got {tuple(bias.shape)} and '
            f'{tuple(index.shape)}.'
        )
    find_ranges(segments, key.shape[2])
    for _, _, values in segments:
        if values.shape != index.shape[:2]:
            raise ValueError(
                f'values of a segment must have shape {tuple(index.shape[:2])}, got '
                f'{tuple(values.shape)}.'
            )


def check_attention(
    query: Tensor, key: Tensor, value: Tensor, index: Tensor, plan: WindowPlan | None
) -> None:
    """Raise ValueError if shapes and types do not agree."""
    shapes = [tuple(tensor.shape) for tensor in (query, key, value)]
    if any(len(shape) != 4 for shape in shapes) or shapes[1] != shapes[2]:
        raise ValueError(f'query, key and value must be (B, H, N, D), got {shapes}.')
    if shapes[0][:2] != shapes[1][:2] or shapes[0][3] != shapes[1][3]:
        raise ValueError(f'query and key differ in batch, heads or channels: {shapes[:2]}.')
    if not query.dtype == key.dtype == value.dtype:
        dtypes = [tensor.dtype for tensor in (query, key, value)]
        raise ValueError(f'query, key and value must have one type, got {dtypes}.')
    expected = (shapes[0][0], shapes[0][2])
    if index.dim() != 3 or tuple(index.shape[:2]) != expected:
        raise ValueError(f'index must have shape {(*expected, "W")}, got {tuple(index.shape)}.')
    if plan is not None and (plan.index_shape, plan.num_keys) != (
        tuple(index.shape),
        shapes[1][2],
    ):
        raise ValueError(
            f'the plan is for an index of shape {plan.index_shape} and {plan.num_keys} keys, got '
            f'{tuple(index.shape)} and {shapes[1][2]}.'
        )


def _choose(
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    segments: Sequence[Segment],
) -> str:
    """The backend that runs."""
    if backend not in BACKENDS:
        raise ValueError(f'unknown backend {backend!r}; there are {", ".join(BACKENDS)}.')
    differentiable = [query, key, value, bias, *(values for _, _, values in segments)]
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in differentiable)
    if backend == 'auto':
        chosen = 'flash' if why_not_flash(query, key) is None else 'dense'
        _log_once(f"attention with a bias runs on backend '{chosen}' on {query.device.type}")
        return chosen
    reason = None
    if backend == 'flash':
        reason = why_not_flash(query, key)
    elif backend == 'flex':
        reason = why_not_flex(query, key, needs_grad)
    if reason is not None:
        raise RuntimeError(f"attention backend '{backend}' cannot run: {reason}.")
    return backend


def _log_once(message: str) -> None:
    if message not in _logged_choices:
        _logged_choices.add(message)
        _logger.info(message)
