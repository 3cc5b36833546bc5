"""Attention with a bias on the keys in each query's windows, and attention to windows alone.

Both are one operator, ``cmt_bias::windowed_attention``, with a strength of the bias or without.
Where torch takes operators made in Python (2.4) it is registered in ``torch.library``, so that
``torch.compile`` and ``torch.export`` trace through it; older versions call the same functions in
an ``autograd.Function``.

A backend is a module of three functions. Query, key and value have one floating type, all tensors
any strides; without a strength keys outside of windows have no weight, and a query without keys
gets zeros.

- ``why_not(query, key, windows, strength)``: why it cannot run on such tensors; None if it can.
- ``attend(query, key, value, windows, strength, scale)``: the output ``(B, H, Q, D)`` in any
  floating type, and two tensors ``(B, H, Q)`` in float32 (float64 for float64) for the next: the
  log-sum-exp of each query's logits, and what it likes.
- ``gradients(grad_output, *as above, output, *the two tensors)``:
  the gradients of query, key, value and strength (None without one) in any floating type.
"""

import logging
from typing import Any

import torch
from torch import Tensor

from . import cpu, dense, triton_attention
from .geometry import QueryWindows, TokenLayout, Window, WindowedBias

_logger = logging.getLogger('cmt_bias')
_logged_choices: set[str] = set()


# By preference.
_BACKENDS: dict[str, Any] = {'cpu': cpu, 'triton': triton_attention, 'dense': dense}
BACKENDS = ('auto', *_BACKENDS)


def biased_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: WindowedBias,
    scale: float | None = None,
    backend: str = 'auto',
) -> Tensor:
    """Scaled dot product attention with a bias on the logits of the keys in windows.

    ``softmax(scale * query . key + bias) value``, differentiable once in query, key, value and the
    bias's strength. Attention probabilities have no dropout.

    Args:
        query: ``(B, H, Q, D)``.
        key: ``(B, H, K, D)``.
        value: ``(B, H, K, D)``.
        bias: On the keys; its strength up to about 80 in absolute value.
        scale: Factor on the products of queries and keys; ``D ** -0.5`` if None.
        backend: ``'dense'``: a mask for some queries at a time, anywhere. ``'cpu'``: torch's flash
            kernel, and a compiled loop over the keys in windows. ``'triton'``: one fused kernel,
            on CUDA. ``'auto'``: the fastest that can.

    Returns:
        ``(B, H, Q, D)`` in the query's type; under autocast in autocast's.

    Raises:
        ValueError: If shapes, types or devices do not agree, or the backend is unknown.
        RuntimeError: If the named backend cannot run; says why.
    """
    return _attend(query, key, value, bias.windows, bias.strength, scale, backend)


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: QueryWindows,
    scale: float | None = None,
    backend: str = 'auto',
) -> Tensor:
    """Scaled dot product attention to the keys in each query's windows, and no others.

    Differentiable once in query, key and value. A window's profile has no effect.

    Arguments, result and errors are those of :func:`biased_attention`, with the windows in place
    of the bias. A query without any key gets zeros.
    """
    return _attend(query, key, value, windows, None, scale, backend)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: QueryWindows,
    strength: Tensor | None,
    scale: float | None,
    backend: str,
) -> Tensor:
    tensors = [t for t in (query, key, value, windows.cells, strength) if t is not None]
    if len({tensor.device for tensor in tensors}) > 1:
        raise ValueError(f'tensors lie on {sorted({str(t.device) for t in tensors})}.')
    query, key, value = _autocast(query, key, value)
    _check(query, key, value, windows, strength)
    if backend not in BACKENDS:
        raise ValueError(f'unknown backend {backend!r}; there are {", ".join(BACKENDS)}.')
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    sizes, sigmas = _numbers_of(windows)
    inputs = (query, key, value, windows.cells, strength, sizes, sigmas, scale, backend)
    return _forward_operator(*inputs)[0]


def is_compiling() -> bool:
    """Whether ``torch.compile`` or ``torch.export`` traces."""
    if hasattr(torch.compiler, 'is_compiling'):
        return torch.compiler.is_compiling()
    return torch._dynamo.is_compiling()  # torch < 2.3


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast as autocast does for torch's own attention."""
    device = tensors[0].device.type
    if hasattr(torch, 'get_autocast_dtype'):
        if not torch.is_autocast_enabled(device):
            return tensors
        dtype = torch.get_autocast_dtype(device)
    else:  # torch < 2.4
        on_cpu = device == 'cpu'
        if not (torch.is_autocast_cpu_enabled() if on_cpu else torch.is_autocast_enabled()):
            return tensors
        dtype = torch.get_autocast_cpu_dtype() if on_cpu else torch.get_autocast_gpu_dtype()
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def _check(
    query: Tensor, key: Tensor, value: Tensor, windows: QueryWindows, strength: Tensor | None
) -> None:
    """Raise ValueError if shapes or types do not agree."""
    shapes = [tuple(tensor.shape) for tensor in (query, key, value)]
    if any(len(shape) != 4 for shape in shapes) or shapes[1] != shapes[2]:
        raise ValueError(f'query, key and value must be (B, H, N, D), got {shapes}.')
    if shapes[0][:2] != shapes[1][:2] or shapes[0][3] != shapes[1][3]:
        raise ValueError(f'query and key differ in batch, heads or channels: {shapes[:2]}.')
    dtypes = [tensor.dtype for tensor in (query, key, value)]
    if len(set(dtypes)) > 1 or not query.is_floating_point():
        raise ValueError(f'query, key and value must have one floating type, got {dtypes}.')
    layout, cells = windows.layout, windows.cells
    if not layout.num_tokens == shapes[1][2] > 0:
        raise ValueError(f'{layout} has {layout.num_tokens} tokens, the keys are {shapes[1][2]}.')
    batch_queries = (shapes[0][0], shapes[0][2])
    expected = (*batch_queries, len(layout.segments), 2)
    if tuple(cells.shape) != expected or cells.dtype != torch.int32:
        raise ValueError(
            f'cells must be int32 of shape {expected}, got {cells.dtype}, {tuple(cells.shape)}.'
        )
    if strength is not None and not (
        tuple(strength.shape) == (*batch_queries, 2) and strength.is_floating_point()
    ):
        raise ValueError(
            f'strength must be a floating tensor of shape {(*batch_queries, 2)}, got '
            f'{strength.dtype}, {tuple(strength.shape)}.'
        )


def _choose(
    name: str, query: Tensor, key: Tensor, windows: QueryWindows, strength: Tensor | None
) -> Any:
    """The backend that runs; the same for the same kind of tensors."""
    if name != 'auto':
        reason = _BACKENDS[name].why_not(query, key, windows, strength)
        if reason is not None:
            raise RuntimeError(f"attention backend '{name}' cannot run: {reason}.")
        return _BACKENDS[name]
    reasons = []
    for candidate, backend in _BACKENDS.items():
        reason = backend.why_not(query, key, windows, strength)
        if reason is None:
            break
        reasons.append(f'{candidate}: {reason}')
    kind = 'attention with a bias' if strength is not None else 'attention to windows'
    message = f"{kind} runs on backend '{candidate}' on {query.device.type} in {query.dtype}"
    if message not in _logged_choices:
        _logged_choices.add(message)
        _logger.info('%s (%s)', message, '; '.join(reasons) or 'the first choice')
    return backend


def _numbers_of(windows: QueryWindows) -> tuple[list[int], list[float]]:
    """What is known of windows besides their cells, in numbers that an operator can take."""
    layout = windows.layout
    radii = [-1 if window.radius is None else window.radius for window in windows.shapes]
    bev, view = layout.bev_shape or (-1, -1), layout.view_shape or (-1, -1)
    return [*bev, layout.num_views, *view, *radii], [w.sigma or 0.0 for w in windows.shapes]


def _windows_of(cells: Tensor, sizes: list[int], sigmas: list[float]) -> QueryWindows:
    """The inverse of :func:`_numbers_of`."""
    bev, view = ((a, b) if a >= 0 else None for a, b in (sizes[:2], sizes[3:5]))
    radii = (None if radius < 0 else radius for radius in sizes[5:])
    lidar, camera = (Window(r, s or None) for r, s in zip(radii, sigmas, strict=True))
    return QueryWindows(TokenLayout(bev, sizes[2], view), cells, (lidar, camera))


def _token_major(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``(B, H, N, D)`` with the heads of a token next to each other, as projections leave them."""
    return tensor.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cells: Tensor,
    strength: Tensor | None,
    sizes: list[int],
    sigmas: list[float],
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and what the backward pass wants to know."""
    windows = _windows_of(cells, sizes, sigmas)
    chosen = _choose(backend, query, key, windows, strength)
    with torch.autocast(query.device.type, enabled=False):
        output, *kept = chosen.attend(query, key, value, windows, strength, scale)
    return _token_major(output, query.dtype), kept[0].contiguous(), kept[1].contiguous()


def _forward_shapes(query: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    kept = query.new_empty(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))
    return _token_major(torch.empty_like(query), query.dtype), kept, torch.empty_like(kept)


def _backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cells: Tensor,
    strength: Tensor | None,
    sizes: list[int],
    sigmas: list[float],
    scale: float,
    backend: str,
    output: Tensor,
    logsumexp: Tensor,
    extra: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and strength; the last is empty without a strength."""
    windows = _windows_of(cells, sizes, sigmas)
    chosen = _choose(backend, query, key, windows, strength)
    with torch.autocast(query.device.type, enabled=False):
        *grads, grad_strength = chosen.gradients(
            grad_output, query, key, value, windows, strength, scale, output, logsumexp, extra
        )
    of_query, of_key, of_value = (_token_major(grad, query.dtype) for grad in grads)
    if strength is None or grad_strength is None:
        return of_query, of_key, of_value, query.new_empty(0)
    return of_query, of_key, of_value, grad_strength.to(strength.dtype)


def _backward_shapes(
    grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, cells: Tensor,
    strength: Tensor | None, *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    of_strength = query.new_empty(0) if strength is None else torch.empty_like(strength)
    grads = [_token_major(torch.empty_like(tensor), query.dtype) for tensor in (query, key, value)]
    return grads[0], grads[1], grads[2], of_strength


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keep what the backward pass needs: nothing as large as keys but these themselves."""
    query, key, value, cells, strength, *ctx.rest = inputs
    ctx.save_for_backward(query, key, value, cells, strength, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_output: Tensor | None, *_: Any) -> tuple[Any, ...]:
    """Gradients of the inputs of :func:`_forward`."""
    if torch.is_grad_enabled() and not is_compiling():
        raise RuntimeError(
            'attention with a bias can be differentiated once only: call backward without '
            'create_graph=True.'
        )
    nothing = (None,) * (len(ctx.rest) + 5)
    if grad_output is None:
        return nothing
    query, key, value, cells, strength, *kept = ctx.saved_tensors
    grads = _backward_operator(grad_output, query, key, value, cells, strength, *ctx.rest, *kept)
    of_strength = None if strength is None else grads[3]
    return *grads[:3], None, of_strength, *nothing[5:]


class _Operator(torch.autograd.Function):
    """The operator where torch has no registration for operators made in Python."""

    forward = staticmethod(_forward)
    setup_context = staticmethod(_keep)
    backward = staticmethod(_differentiate)


def _register() -> tuple[Any, Any]:
    """The forward and the backward operator."""
    if not hasattr(torch.library, 'register_autograd'):  # torch < 2.4
        return _Operator.apply, _backward
    inputs = (
        'Tensor query, Tensor key, Tensor value, Tensor cells, Tensor? strength, int[] sizes, '
        'float[] sigmas, float scale, str backend'
    )
    torch.library.define('cmt_bias::windowed_attention', f'({inputs}) -> (Tensor, Tensor, Tensor)')
    torch.library.define(
        'cmt_bias::windowed_attention_backward',
        f'(Tensor grad_output, {inputs}, Tensor output, Tensor logsumexp, Tensor extra) -> '
        '(Tensor, Tensor, Tensor, Tensor)',
    )
    for name, function, shapes in (
        ('windowed_attention', _forward, _forward_shapes),
        ('windowed_attention_backward', _backward, _backward_shapes),
    ):
        torch.library.impl(f'cmt_bias::{name}', 'CompositeExplicitAutograd', function)
        torch.library.register_fake(f'cmt_bias::{name}', shapes)
    torch.library.register_autograd(
        'cmt_bias::windowed_attention', _differentiate, setup_context=_keep
    )
    operators = torch.ops.cmt_bias
    return operators.windowed_attention.default, operators.windowed_attention_backward.default


_forward_operator, _backward_operator = _register()
