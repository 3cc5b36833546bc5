"""On a CPU: torch's flash attention without the bias, corrected on the keys in windows.

With ``o0, L0`` the output and log-sum-exp of attention without a bias, ``s`` the scores and ``b``
the bias of a query's window keys, and ``w_k = exp(b_k) - 1``:

    o = (o0 + sum w_k exp(s_k - L0) v_k) / (1 + sum w_k exp(s_k - L0))
    L = L0 + log(1 + sum w_k exp(s_k - L0))

The flash backward kernel, given this o and L, is right for all keys outside the windows. Those
inside lack the part of their probability that the bias adds, ``w_k exp(s_k - L)``. The sums over
windows are in ``cpu_kernel.cpp``, compiled when the package is installed.

The denominator above is what the bias leaves of a query's mass. Where it is small, the error of o0
would be divided by it: such queries, whose attention lies in a window with a strongly negative
bias, are lost and attend once more, with the bias as a mask. So are those with a bias so strongly
positive that ``w_k`` overflows (from 88 on in float32).
"""

import ctypes
import hashlib
import logging
import struct
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .dense import dense_bias
from .geometry import AttentionInputs, WindowedBias

# Of a head, as cpu_kernel.cpp has it.
CHANNELS_DIVISOR = 8
_MAX_CHANNELS = 512

_logger = logging.getLogger('cmt_bias')
_aten = torch.ops.aten


@cache
def load_kernel() -> ctypes.CDLL | str:
    """The compiled library; why it cannot be had, with a warning, if it cannot."""
    source = Path(__file__).with_name('cpu_kernel.cpp')
    # the source may have changed since an editable installation compiled it
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    reason = 'its C++ loop in this version was not compiled when the package was installed'
    for path in source.parent.glob(f'_cpu_kernel_{digest}.*'):
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


def why_not(inputs: AttentionInputs) -> str | None:
    """Why the backend cannot run on such tensors; None if it can."""
    if inputs.query.device.type != 'cpu':
        return f"it computes on the CPU, not on device type '{inputs.query.device.type}'"
    if not inputs.query.numel():
        return 'the kernels do not take empty tensors'
    if not hasattr(_aten, '_scaled_dot_product_flash_attention_for_cpu'):
        return f'torch {torch.__version__} has no flash attention for CPUs with a mask'
    if inputs.windows.has_whole_modality():
        return 'it attends to windows, not to whole modalities'
    channels = inputs.query.shape[-1]
    if channels % CHANNELS_DIVISOR or channels > _MAX_CHANNELS:
        fitting = f'multiples of {CHANNELS_DIVISOR}, at most {_MAX_CHANNELS}'
        return f'heads of {channels} channels do not fit ({fitting})'
    kernel = load_kernel()
    return kernel if isinstance(kernel, str) else None


def attend(inputs: AttentionInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Attention, as operator.py says; the third result are the lost queries, ``(B, Q)``."""
    lost = torch.zeros(inputs.query.shape[:2], dtype=torch.bool)
    if inputs.strength is None:
        output = torch.zeros_like(inputs.query)
        logsumexp = output.new_full(output.shape[:3], -torch.inf)
    else:
        output, logsumexp = (tensor.contiguous() for tensor in _flash(inputs))
    _call('attend', inputs, output, logsumexp, lost)
    for part, queries, of_part, mask in _split(inputs, lost):
        output[part, queries], logsumexp[part, queries] = _flash(of_part, mask)
    return output, logsumexp, lost


def gradients(
    inputs: AttentionInputs, grad_output: Tensor, output: Tensor, logsumexp: Tensor, lost: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients, as operator.py says."""
    some_are_lost = bool(lost.any())
    if inputs.strength is None or some_are_lost:
        grads = [torch.zeros_like(tensor) for tensor in inputs[:3]]
    else:
        found = _flash_gradients(inputs, [grad_output, output, logsumexp])
        grads = [grad.contiguous() for grad in found]
    kept_and_lost = chain(_split(inputs, ~lost, False), _split(inputs, lost))
    for part, queries, of_part, mask in kept_and_lost if some_are_lost else ():
        results = [tensor[part, queries] for tensor in (grad_output, output, logsumexp)]
        grads[0][part, queries], of_key, of_value = _flash_gradients(of_part, results, mask)
        grads[1][part] += of_key
        grads[2][part] += of_value
    delta = (grad_output * output).sum(-1)
    of_strength = delta.new_zeros(delta.shape[2], *lost.shape, 2)  # of each head
    known = None, logsumexp, lost, grad_output, delta
    _call('backward', inputs, *known, *grads, of_strength)
    return grads[0], grads[1], grads[2], of_strength.sum(0)


def _flash(inputs: AttentionInputs, mask: Tensor | None = None) -> list[Tensor]:
    """Output and log-sum-exp of torch's kernel, without the windows' bias or with it."""
    tokens = (tensor.transpose(1, 2) for tensor in inputs[:3])
    found = _aten._scaled_dot_product_flash_attention_for_cpu(
        *tokens, attn_mask=mask, scale=inputs.scale
    )
    return [tensor.transpose(1, 2) for tensor in found]


def _flash_gradients(
    inputs: AttentionInputs, results: list[Tensor], mask: Tensor | None = None
) -> list[Tensor]:
    """Those of query, key and value from the output's gradient, and any output and log-sum-exp."""
    tensors = (results[0], *inputs[:3], *results[1:])
    found = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *(tensor.transpose(1, 2) for tensor in tensors),
        dropout_p=0.0,
        is_causal=False,
        attn_mask=mask,
        scale=inputs.scale,
    )
    return [tensor.transpose(1, 2) for tensor in found]


def _split(
    inputs: AttentionInputs, chosen: Tensor, with_mask: bool = True
) -> Iterator[tuple[slice, Tensor, AttentionInputs, Tensor | None]]:
    """Batch elements, some of their chosen queries ``(B, Q)``, their inputs and bias as a mask."""
    # the mask of so many queries is as large as the keys
    most = inputs.key[0, 0].numel() if with_mask else chosen.shape[1]
    for number in chosen.any(1).nonzero().flatten().tolist():
        part = slice(number, number + 1)
        for queries in chosen[number].nonzero().flatten().split(most):
            tensors = {name: getattr(inputs, name)[part] for name in inputs._fields[:5]}
            for name in ('query', 'cells', 'strength'):
                tensors[name] = tensors[name][:, queries]
            of_part = inputs._replace(**tensors)
            bias = WindowedBias(of_part.windows, tensors['strength'])
            yield part, queries, of_part, dense_bias(bias).unsqueeze(1) if with_mask else None


def _call(name: str, inputs: AttentionInputs, *tensors: Tensor | None) -> None:
    """Call a function of the kernel with the inputs, and other tensors as its struct has them."""
    (batch, queries, heads, channels), keys = inputs.query.shape, inputs.key.shape[1]
    threads = torch.get_num_threads()
    numbers = batch, queries, keys, heads, channels, threads, *inputs.sizes
    given, others = (
        [0 if tensor is None else tensor.data_ptr() for tensor in some]
        for some in (inputs[:5], (*tensors, *[None] * (9 - len(tensors))))
    )
    problem = struct.pack('18q3d9q', *numbers, *given, *inputs.sigmas, inputs.scale, *others)
    kernel: Any = load_kernel()
    getattr(kernel, f'{name}_{str(inputs.query.dtype).removeprefix("torch.")}')(problem)
