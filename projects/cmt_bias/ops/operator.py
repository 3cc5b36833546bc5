"""Attention with a bias on the keys in each query's windows, and attention to windows alone.

Both are one operator, ``cmt_bias::windowed_attention``, with a strength of the bias or without.
Where torch takes operators made in Python (2.4) it is registered in ``torch.library``, so that
``torch.compile`` and ``torch.export`` trace through it; older versions call the same functions in
an ``autograd.Function``.

A backend is a module of three functions of :class:`AttentionInputs`. Without a strength keys
outside of windows have no weight, and a query without keys gets zeros.

- ``why_not(inputs)``: why it cannot run on them; None if it can.
- ``attend(inputs)``: the output ``(B, Q, H, D)``, and two tensors for the next, which not every
  backend needs: the log-sum-exp of each query's logits ``(B, Q, H)``, in float32 (float64 for
  float64), and a choice of queries ``(B, Q)``. All are contiguous.
- ``gradients(inputs, grad_output, output, logsumexp, chosen)``: those of query, key, value and
  strength; the last is not looked at without one.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cpu, dense, triton_attention
from .geometry import AttentionInputs, QueryWindows, Window, WindowedBias

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
        bias: On the keys.
        scale: Factor on the products of queries and keys; ``D ** -0.5`` if None.
        backend: ``'dense'``: all logits for some queries at a time, anywhere. ``'cpu'``: torch's
            flash kernel, and a compiled loop over the keys in windows. ``'triton'``: one fused
            kernel, on CUDA. ``'auto'``: the fastest that can.

    Returns:
        ``(B, H, Q, D)`` in the query's type; under autocast in autocast's.

    Raises:
        ValueError: If shapes, types or devices do not agree, or the backend is unknown.
        RuntimeError: If the named backend cannot run; says why.
    """
    return _attend((query, key, value), bias.windows, bias.strength, scale, backend)


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
    return _attend((query, key, value), windows, None, scale, backend)


def _attend(
    tokens: tuple[Tensor, ...],
    windows: QueryWindows,
    strength: Tensor | None,
    scale: float | None,
    backend: str,
) -> Tensor:
    query, key, value = tokens = _autocast(*tokens)
    _check(query, key, value, windows, strength)
    if backend not in BACKENDS:
        raise ValueError(f'unknown backend {backend!r}; there are {", ".join(BACKENDS)}.')
    channels, dtype = tokens[0].shape[-1], tokens[0].dtype
    scale = channels**-0.5 if scale is None else scale
    on_cpu = tokens[0].device.type == 'cpu' and backend in ('auto', 'cpu')
    if on_cpu and strength is not None and windows.has_whole_modality():
        tokens, windows = _fold_whole_modalities(tokens, windows, strength / scale)
    padding = -tokens[0].shape[-1] % cpu.CHANNELS_DIVISOR
    if on_cpu and padding:
        tokens = tuple(F.pad(tensor, (0, padding)) for tensor in tokens)
    tokens = tuple(tensor.transpose(1, 2) for tensor in tokens)
    geometry = windows.cells, strength, windows.order, *AttentionInputs.numbers_of(windows)
    output, *_ = _forward_operator(*tokens, *geometry, scale, backend)
    return output.transpose(1, 2)[..., :channels].to(dtype)


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
    """Raise ValueError if types, shapes or devices do not agree."""
    if query.dim() != 4 or not query.is_floating_point():
        raise ValueError(
            f'query must be floating, (B, H, Q, D), got {query.dtype} {tuple(query.shape)}.'
        )
    (batch, heads, queries, channels), layout = query.shape, windows.layout
    of_keys = query.dtype, (batch, heads, layout.num_tokens, channels)
    wanted: dict[str, tuple[Tensor, torch.dtype, tuple[int, ...]]] = {
        'key': (key, *of_keys),
        'value': (value, *of_keys),
        'cells': (windows.cells, torch.int32, (batch, queries, len(layout.segments), 2)),
    }
    if strength is not None:
        dtype = strength.dtype if strength.is_floating_point() else torch.float32
        wanted['strength'] = (strength, dtype, (batch, queries, 2))
    if windows.order is not None:
        wanted['order'] = (windows.order, torch.int32, (batch, queries))
    for name, (tensor, dtype, shape) in wanted.items():
        is_as_wanted = tensor.dtype == dtype and tuple(tensor.shape) == shape
        if not is_as_wanted or tensor.device != query.device:
            raise ValueError(
                f'{name} must be {dtype} {shape} on {query.device}, for a query '
                f'{tuple(query.shape)} and {layout}, got {tensor.dtype} {tuple(tensor.shape)} on '
                f'{tensor.device}.'
            )


def _fold_whole_modalities(
    tokens: tuple[Tensor, ...], windows: QueryWindows, strength: Tensor
) -> tuple[tuple[Tensor, ...], QueryWindows]:
    """Bias on whole modalities as channels: the query's hold it, the keys' tell the modality.

    With as many zeros as the CPU's loop wants, so that tokens are copied once.
    """
    dtype = torch.promote_types(tokens[0].dtype, torch.float32)
    is_whole = torch.tensor([window.radius is None for window in windows.shapes])
    is_camera = torch.arange(windows.layout.num_tokens) >= windows.layout.num_lidar_tokens
    of_key = torch.stack((~is_camera, is_camera), dim=-1)
    padding = -(tokens[0].shape[-1] + 2) % cpu.CHANNELS_DIVISOR
    more = (
        F.pad(channels.to(dtype), (0, padding))
        for channels in ((strength * is_whole).unsqueeze(1), of_key, strength.new_zeros(2))
    )
    tokens = tuple(
        torch.cat((tensor.to(dtype), channels.expand(*tensor.shape[:3], -1)), dim=-1)
        for tensor, channels in zip(tokens, more, strict=True)
    )
    lidar, camera = (Window(-1) if window.radius is None else window for window in windows.shapes)
    return tokens, replace(windows, shapes=(lidar, camera))


def _choose(name: str, inputs: AttentionInputs) -> Any:
    """The backend that runs; the same for the same kind of tensors."""
    if name != 'auto':
        reason = _BACKENDS[name].why_not(inputs)
        if reason is not None:
            raise RuntimeError(
                f"attention backend '{name}' cannot run: {reason}. Use backend='auto' "
                "(in a config attn_cfgs: bias_backend='auto')."
            )
        return _BACKENDS[name]
    reasons = []
    for candidate, backend in _BACKENDS.items():
        reason = backend.why_not(inputs)
        if reason is None:
            break
        reasons.append(f'{candidate}: {reason}')
    kind = 'attention to windows' if inputs.strength is None else 'attention with a bias'
    device, dtype = inputs.query.device.type, inputs.query.dtype
    message = f"{kind} runs on backend '{candidate}' on {device} in {dtype}"
    if message not in _logged_choices:
        _logged_choices.add(message)
        _logger.info('%s (%s)', message, '; '.join(reasons) or 'the first choice')
    return backend


def _prepare(arguments: Sequence[Any]) -> tuple[Any, AttentionInputs]:
    """The backend, and its inputs from the operator's arguments, of which the last is its name.

    All but Triton compute in float32 at least: a bias of 30 in bfloat16 would be wrong by 0.06.
    """
    inputs = AttentionInputs(*arguments[:-1])
    backend = _choose(arguments[-1], inputs)
    precise = torch.promote_types(inputs.query.dtype, torch.float32)
    dtype = inputs.query.dtype if backend is triton_attention else precise
    query, key, value = (tensor.to(dtype).contiguous() for tensor in inputs[:3])
    strength = None if inputs.strength is None else inputs.strength.to(precise).contiguous()
    cells = inputs.cells.contiguous()
    order = None if inputs.order is None else inputs.order.contiguous()
    return backend, AttentionInputs(query, key, value, cells, strength, order, *inputs[6:])


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and what the backward pass wants to know."""
    backend, inputs = _prepare(arguments)
    query = inputs.query
    # Triton launches on CUDA's current device, which need not be that of the tensors
    with torch.cuda.device_of(query), torch.autocast(query.device.type, enabled=False):
        output, logsumexp, chosen = backend.attend(inputs)
    return output.to(arguments[0].dtype), logsumexp, chosen


def _forward_shapes(query: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    precise = torch.promote_types(query.dtype, torch.float32)
    logsumexp = query.new_empty(query.shape[:3], dtype=precise)
    chosen = query.new_empty(query.shape[:2], dtype=torch.bool)
    return query.new_empty(query.shape), logsumexp, chosen


def _backward(grad_output: Tensor, *arguments: Any) -> list[Tensor]:
    """Gradients of query, key, value and strength; the last is empty without a strength."""
    *of_forward, output, logsumexp, chosen = arguments
    backend, inputs = _prepare(of_forward)
    query, none = inputs.query, grad_output.new_empty(0)
    grad_output, output = (t.to(query.dtype).contiguous() for t in (grad_output, output))
    with torch.cuda.device_of(query), torch.autocast(query.device.type, enabled=False):
        grads = backend.gradients(inputs, grad_output, output, logsumexp, chosen)
    return [
        none if tensor is None else grad.to(tensor.dtype)
        for grad, tensor in zip(grads, (*arguments[:3], arguments[4]), strict=True)
    ]


def _backward_shapes(grad_output: Tensor, *arguments: Any) -> list[Tensor]:
    tensors = (*arguments[:3], arguments[4])
    return [grad_output.new_empty(0) if t is None else t.new_empty(t.shape) for t in tensors]


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keep what the backward pass needs: nothing as large as keys but these themselves."""
    tensors, ctx.numbers = inputs[:6], inputs[6:]
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)  # none of those of log-sum-exp and choice


def _differentiate(ctx: Any, grad_output: Tensor | None, *_: Any) -> tuple[Any, ...]:
    """Gradients of the inputs of :func:`_forward`; without one of the output there are none."""
    if grad_output is None:
        return (None,) * 10
    if torch.is_grad_enabled() and not is_compiling():
        raise RuntimeError(
            'attention with a bias can be differentiated once only: call backward without '
            'create_graph=True.'
        )
    tensors, kept = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
    *grads, of_strength = _backward_operator(grad_output, *tensors, *ctx.numbers, *kept)
    return *grads, None, None if tensors[4] is None else of_strength, *(None,) * 5


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
        'Tensor query, Tensor key, Tensor value, Tensor cells, Tensor? strength, Tensor? order, '
        'int[] sizes, float[] sigmas, float scale, str backend'
    )
    name, kept = 'cmt_bias::windowed_attention', 'Tensor output, Tensor logsumexp, Tensor chosen'
    torch.library.define(name, f'({inputs}) -> (Tensor, Tensor, Tensor)')
    torch.library.define(
        f'{name}_backward',
        f'(Tensor grad_output, {inputs}, {kept}) -> (Tensor, Tensor, Tensor, Tensor)',
    )
    torch.library.impl(name, 'CompositeExplicitAutograd', _forward)
    torch.library.impl(f'{name}_backward', 'CompositeExplicitAutograd', _backward)
    torch.library.register_fake(name, _forward_shapes)
    torch.library.register_fake(f'{name}_backward', _backward_shapes)
    torch.library.register_autograd(name, _differentiate, setup_context=_keep)
    operators = torch.ops.cmt_bias
    return operators.windowed_attention.default, operators.windowed_attention_backward.default


_forward_operator, _backward_operator = _register()
