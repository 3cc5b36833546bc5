"""On a CPU: torch's flash attention without the windows' bias, corrected on the keys in windows.

With ``o0, L0`` the output and log-sum-exp of attention without that bias, ``s`` the scores and
``b`` the bias of a query's window keys, and ``w_k = exp(b_k) - 1``:

    o = (o0 + sum w_k exp(s_k - L0) v_k) / (1 + sum w_k exp(s_k - L0))
    L = L0 + log(1 + sum w_k exp(s_k - L0))

The flash backward kernel, given this o and L, is right for all keys outside the windows. Those
inside lack the part of their probability that the bias adds, ``w_k exp(s_k - L)``.

The denominator above is what the bias leaves of a query's mass. Where it is small, the error of o0
would be divided by it: such queries, whose attention lies in a window with a strongly negative
bias, attend once more, with the bias as a mask.

A modality that counts as a whole needs no window: the modalities are attended to apart, and joined
by their log-sum-exps, shifted by the bias.

The sums over windows are in ``cpu_kernel.cpp``, compiled when the package is installed.

Shape letters: B batch, H heads, Q queries, K keys, D channels of a head, N some queries.
"""

import ctypes
import logging
import math
from collections.abc import Iterator
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .dense import dense_bias
from .geometry import QueryWindows, WindowedBias

_logger = logging.getLogger('cmt_bias')
_aten = torch.ops.aten
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Below this share of its mass a query attends with a mask. In half precision the kernel's output
# is rounded, so that there is less to lose.
_SMALLEST_SHARE = 0.5
_SMALLEST_SHARE_HALF = 0.7
# Parts of the keys that threads take in the backward pass: each has the queries' gradients once.
_MOST_PARTS = 16


@cache
def load_kernel() -> ctypes.CDLL | str:
    """The compiled library; why it cannot be had, with a warning, if it cannot."""
    reason = 'its C++ loop was not compiled when the package was installed'
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f'_cpu_kernel{suffix}')
        if path.is_file():
            try:
                return ctypes.CDLL(str(path))
            except OSError as error:
                reason = f'its C++ loop cannot be loaded ({error})'
    _logger.warning(
        "Attention with a bias is slower on CPUs: backend 'cpu' cannot run, %s. Install cmt-bias "
        'again where there is a C++ compiler (Debian, Ubuntu: sudo apt install g++).',
        reason,
    )
    return reason


def why_not(
    query: Tensor, key: Tensor, windows: QueryWindows, strength: Tensor | None
) -> str | None:
    """Why the backend cannot run on such tensors; None if it can."""
    if query.device.type != 'cpu':
        return f"it computes on the CPU, not on device type '{query.device.type}'"
    if query.dtype not in _DTYPES:
        return f'it does not compute in {query.dtype}'
    if not (query.numel() and key.numel()):
        return 'the kernels do not take empty tensors'
    if not hasattr(_aten, '_scaled_dot_product_flash_attention_for_cpu'):
        return f'torch {torch.__version__} has no flash attention for CPUs with a mask'
    if strength is None and windows.has_whole_modality():
        return 'it attends to windows, not to whole modalities'
    kernel = load_kernel()
    return kernel if isinstance(kernel, str) else None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: QueryWindows,
    strength: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention; arguments and result as in :class:`cmt_bias.ops.operator.Backend`.

    The third result is the log-sum-exp without the windows' bias.
    """
    query, key, value = (_with_unit_stride(tensor) for tensor in (query, key, value))
    dtype = _sum_dtype(query)
    if strength is None:
        output, unbiased = _zeros_like(query, dtype), query.new_zeros(query.shape[:3], dtype=dtype)
    else:
        output, unbiased = _attend_ranges(query, key, value, windows, strength, scale)
    output, logsumexp = _rows(output, dtype), _rows(unbiased, dtype).clone()
    problem = _Problem.of(query, key, value, windows, strength, scale)
    problem.call('attend', _rows(query, dtype), output, logsumexp)
    output, logsumexp = output.transpose(1, 2), logsumexp.transpose(1, 2)
    if strength is not None:
        for part, queries in _groups(_lost_mass(unbiased, logsumexp, query.dtype), query):
            mask = _mask(windows, strength, part, queries, query.dtype)
            some = query[part][:, :, queries]
            again, its_logsumexp = _flash(some, key[part], value[part], scale, mask)
            output[part, :, queries] = again.to(dtype)
            logsumexp[part, :, queries] = its_logsumexp
    return output, logsumexp, unbiased


def gradients(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: QueryWindows,
    strength: Tensor | None,
    scale: float,
    output: Tensor,
    logsumexp: Tensor,
    extra: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients; arguments and result as in :class:`cmt_bias.ops.operator.Backend`."""
    query, key, value, grad_output = (
        _with_unit_stride(tensor) for tensor in (query, key, value, grad_output)
    )
    dtype = _sum_dtype(query)
    batch, _, queries, _ = query.shape
    delta = (grad_output * output.to(dtype)).sum(-1)
    if strength is None:
        lost = torch.zeros(batch, queries, dtype=torch.bool)
        grads = [_zeros_like(tensor, dtype) for tensor in (query, key, value)]
    else:
        lost = _lost_mass(extra, logsumexp, query.dtype)
        inputs = (grad_output, query, key, value, windows, strength, scale, output, logsumexp)
        grads = [grad.to(dtype) for grad in _flash_gradients(*inputs, lost)]
    problem = _Problem.of(query, key, value, windows, strength, scale)
    parts = min(problem.threads, _MOST_PARTS)
    read = [_rows(tensor, dtype) for tensor in (query, grad_output, logsumexp, delta)]
    query_parts = read[0].new_zeros(parts, *read[0].shape)
    strength_parts = query.new_zeros(parts, batch, queries, 2, dtype=dtype)
    problem.call(
        'backward',
        *(ctypes.c_int64(parts), lost, *read, query_parts),
        *(ctypes.byref(_Tokens.of(grad)) for grad in grads[1:]),
        strength_parts,
    )
    grads[0] = grads[0] + query_parts.sum(0).transpose(1, 2)
    grad_strength = None
    if strength is not None:
        grad_strength = strength_parts.sum(0)
        for keys, modality in _ranges(windows):
            if modality is not None:
                attended, its_logsumexp = _flash(query, key[:, :, keys], value[:, :, keys], scale)
                mass = (its_logsumexp + _whole_bias(strength, modality) - logsumexp).exp()
                along = (grad_output * attended.to(dtype)).sum(-1)
                grad_strength[..., modality] += (mass * (along - delta)).sum(1)
    return grads[0], grads[1], grads[2], grad_strength


class _Tokens(ctypes.Structure):
    """Mirror of the struct in ``cpu_kernel.cpp``."""

    _fields_ = (
        ('data', ctypes.c_void_p),
        ('batch_stride', ctypes.c_int64),
        ('head_stride', ctypes.c_int64),
        ('token_stride', ctypes.c_int64),
    )

    @classmethod
    def of(cls, tokens: Tensor) -> '_Tokens':
        """Of ``(B, H, N, D)`` with neighbouring channels."""
        return cls(tokens.data_ptr(), *tokens.stride()[:3])


class _Problem(ctypes.Structure):
    """Mirror of the struct in ``cpu_kernel.cpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ('batch', 'heads', 'queries', 'keys', 'channels')),
        ('threads', ctypes.c_int64),
        *((name, ctypes.c_int64 * 2) for name in ('maps', 'rows', 'columns', 'radius')),
        ('sigma', ctypes.c_double * 2),
        ('scale', ctypes.c_double),
        ('cells', ctypes.c_void_p),
        ('strength', ctypes.c_void_p),
        ('key', _Tokens),
        ('value', _Tokens),
    )

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        windows: QueryWindows,
        strength: Tensor | None,
        scale: float,
    ) -> '_Problem':
        """Of the arguments of :func:`attend`; keeps what it points to."""
        layout, cells = windows.layout, windows.cells.contiguous()
        if strength is not None:
            strength = strength.to(_sum_dtype(query)).contiguous()
        bev, view = layout.bev_shape or (0, 0), layout.view_shape or (0, 0)
        radius = [-1 if window.radius is None else window.radius for window in windows.shapes]
        problem = cls(
            *(*query.shape[:3], *key.shape[2:], torch.get_num_threads()),
            (int(layout.bev_shape is not None), layout.num_views),
            *((bev[axis], view[axis]) for axis in (0, 1)),
            tuple(radius),
            tuple(window.sigma or 0.0 for window in windows.shapes),
            *(scale, cells.data_ptr(), None if strength is None else strength.data_ptr()),
            *(_Tokens.of(key), _Tokens.of(value)),
        )
        problem.kept = cells, strength, key, value
        return problem

    def call(self, name: str, *arguments: Any) -> None:
        """Call the kernel's function for the type of keys and values; tensors by their address."""
        kernel, dtype = load_kernel(), str(self.kept[-1].dtype).removeprefix('torch.')
        getattr(kernel, f'{name}_{dtype}')(
            ctypes.byref(self),
            *(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments),
        )


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    """What products are summed up in: float32 for half precision."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _rows(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``(B, H, N, ...)`` to contiguous ``(B, N, H, ...)``: a view if heads were split off so."""
    return tensor.to(dtype).transpose(1, 2).contiguous()


def _zeros_like(tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """``(B, H, N, D)`` with the heads of a token next to each other."""
    batch, heads, count, channels = tokens.shape
    return tokens.new_zeros(batch, count, heads, channels, dtype=dtype).transpose(1, 2)


def _with_unit_stride(tensor: Tensor) -> Tensor:
    """The kernels read the channels of a head as neighbours."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _lost_mass(unbiased: Tensor, logsumexp: Tensor, dtype: torch.dtype) -> Tensor:
    """``(B, Q)`` True for queries of which the bias leaves a head too little mass.

    Args:
        unbiased: ``(B, H, Q)`` log-sum-exp without the windows' bias.
        logsumexp: ``(B, H, Q)`` with it.
        dtype: Of the queries.
    """
    smallest = _SMALLEST_SHARE if dtype == logsumexp.dtype else _SMALLEST_SHARE_HALF
    # not the contrary: NaN counts as lost
    return ~(logsumexp - unbiased >= math.log(smallest)).all(1)


def _groups(chosen: Tensor, query: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Batch elements, and some of their chosen queries: a mask of them is as large as the keys.

    Args:
        chosen: ``(B, Q)`` bool.
        query: ``(B, H, Q, D)``.
    """
    if chosen.any():
        for element, of_element in enumerate(chosen):
            for queries in of_element.nonzero().squeeze(1).split(query.shape[1] * query.shape[3]):
                if len(queries):
                    yield slice(element, element + 1), queries


def _mask(
    windows: QueryWindows, strength: Tensor, part: slice, queries: Tensor, dtype: torch.dtype
) -> Tensor:
    """``(1, 1, N, K)`` the bias of some queries of a batch element.

    Half precision goes with a float32 mask; float64 with a float32 mask gives wrong results.
    """
    one = QueryWindows(windows.layout, windows.cells[part][:, queries], windows.shapes)
    mask_dtype = torch.promote_types(dtype, torch.float32)
    return dense_bias(WindowedBias(one, strength[part][:, queries].to(mask_dtype))).unsqueeze(1)


def _ranges(windows: QueryWindows) -> list[tuple[slice, int | None]]:
    """Keys that are attended to at once, and the modality that they are as a whole."""
    layout = windows.layout
    if not windows.has_whole_modality():
        return [(slice(0, layout.num_tokens), None)]
    bounds = pairwise((0, layout.num_lidar_tokens, layout.num_tokens))
    return [
        (slice(start, stop), modality if windows.shapes[modality].radius is None else None)
        for modality, (start, stop) in enumerate(bounds)
        if stop > start
    ]


def _whole_bias(strength: Tensor, modality: int | None) -> Tensor | float:
    """``(B, 1, Q)``, or 0."""
    return 0.0 if modality is None else strength[..., modality].unsqueeze(1)


def _attend_ranges(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: QueryWindows,
    strength: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp without the windows' bias, but with that on whole modalities."""
    outputs, logsumexps = [], []
    for keys, modality in _ranges(windows):
        output, logsumexp = _flash(query, key[:, :, keys], value[:, :, keys], scale)
        outputs.append(output)
        logsumexps.append(logsumexp + _whole_bias(strength, modality))
    if len(outputs) == 1:
        return outputs[0], logsumexps[0]
    logsumexp = torch.stack(logsumexps).logsumexp(0)
    weights = [(part - logsumexp).exp().unsqueeze(-1) for part in logsumexps]
    return weights[0] * outputs[0] + weights[1] * outputs[1], logsumexp


def _range_gradients(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: QueryWindows,
    strength: Tensor,
    scale: float,
    output: Tensor,
    logsumexp: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`_attend_ranges`, for any output and log-sum-exp."""
    grads = []
    for keys, modality in _ranges(windows):
        shifted = logsumexp - _whole_bias(strength, modality)
        part = query, key[:, :, keys], value[:, :, keys], output, shifted, scale
        grads.append(_flash_backward(grad_output, *part))
    if len(grads) == 1:
        return grads[0]
    (first, *firsts), (second, *seconds) = grads
    grad_key, grad_value = (
        torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)
        for parts in zip(firsts, seconds, strict=True)
    )
    return first + second, grad_key, grad_value


def _flash_gradients(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: QueryWindows,
    strength: Tensor,
    scale: float,
    output: Tensor,
    logsumexp: Tensor,
    lost: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients without the windows' bias, but those of lost queries with it."""
    rest = grad_output, query, key, value, windows, strength, scale, output, logsumexp
    if not lost.any():
        return _range_gradients(*rest)
    grads = tuple(_zeros_like(tensor, logsumexp.dtype) for tensor in (query, key, value))
    for with_mask in (False, True):
        for part, queries in _groups(lost if with_mask else ~lost, query):
            grad, some, its_output, its_logsumexp = (
                tensor[part][:, :, queries] for tensor in (grad_output, query, output, logsumexp)
            )
            of_part = some, key[part], value[part]
            if with_mask:
                mask = _mask(windows, strength, part, queries, query.dtype)
                found = _flash_backward(grad, *of_part, its_output, its_logsumexp, scale, mask)
            else:
                its_strength = strength[part][:, queries]
                bias = windows, its_strength, scale
                found = _range_gradients(grad, *of_part, *bias, its_output, its_logsumexp)
            grads[0][part, :, queries] = found[0].to(logsumexp.dtype)
            grads[1][part] += found[1]
            grads[2][part] += found[2]
    return grads


def _flash(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of torch's kernel; the mask ``(1, 1, Q, K)`` is added to logits."""
    return _aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scale
    )


def _flash_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    scale: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value by torch's kernel, for any output and log-sum-exp."""
    return _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_output, query, key, value, output, logsumexp, 0.0, False, attn_mask=mask, scale=scale
    )
