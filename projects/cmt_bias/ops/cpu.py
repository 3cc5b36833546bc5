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
bias, attend once more, with the bias as a mask.

Half precision is computed in float32, in which alone the correction is worth its name.
"""

import ctypes
import hashlib
import logging
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dense import dense_bias
from .geometry import QueryWindows, Window, WindowedBias

_logger = logging.getLogger('cmt_bias')
_aten = torch.ops.aten
# Below this share of its mass a query attends with a mask.
_SMALLEST_SHARE = 0.5
# Parts of the keys that threads take in the backward pass: each has the queries' gradients once.
_MOST_PARTS = 16


@cache
def load_kernel() -> ctypes.CDLL | str:
    """The compiled library; why it cannot be had, with a warning, if it cannot."""
    reason = 'its C++ loop was not compiled when the package was installed'
    source = Path(__file__).with_name('cpu_kernel.cpp')
    for suffix in EXTENSION_SUFFIXES:
        path = source.with_name(f'_cpu_kernel{suffix}')
        if path.is_file():
            try:
                library = ctypes.CDLL(str(path))
                digest = ctypes.c_char_p.in_dll(library, 'source_digest')
            except (OSError, ValueError) as error:  # damaged, or older than the digest
                reason = f'its C++ loop cannot be loaded ({error})'
                continue
            # in an editable installation the source may have changed since
            compiled_from = digest.value or b''
            if compiled_from.decode() == hashlib.sha256(source.read_bytes()).hexdigest():
                return library
            reason = 'its C++ loop was compiled from another version of its source'
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
    if not query.numel():
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
    """Attention, as operator.py says; the third result is the log-sum-exp without the bias."""
    problem = _Problem.of(query, key, value, windows, strength, scale)
    if strength is None:
        plain, unbiased = (torch.zeros_like(t) for t in (problem.query, problem.query[..., 0]))
    else:
        plain, unbiased = problem.flash()
    # what the loop writes over
    output, logsumexp = _rows(plain).clone(), _rows(unbiased).clone()
    problem.call('attend', _rows(problem.query), output, logsumexp)
    output, logsumexp = output.transpose(1, 2), logsumexp.transpose(1, 2)
    if strength is not None:
        for part, queries in _groups(_lost_mass(unbiased, logsumexp), problem.most_masked):
            again, its_logsumexp = problem.part(part, queries).flash(with_mask=True)
            output[part, :, queries] = again
            logsumexp[part, :, queries] = its_logsumexp
    return output[..., : query.shape[-1]], logsumexp, unbiased


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
    """Gradients, as operator.py says."""
    problem = _Problem.of(query, key, value, windows, strength, scale)
    channels = query.shape[-1]
    folded = problem.query.shape[-1] - channels
    grad_output, output = (
        F.pad(t.to(problem.query.dtype), (0, folded)) for t in (grad_output, output)
    )
    delta = (grad_output * output).sum(-1)
    lost = torch.zeros(query.shape[0], query.shape[2], dtype=torch.bool)
    if strength is None:
        grads = [_rows(torch.zeros_like(tensor)) for tensor in problem.tensors]
    else:
        lost = _lost_mass(extra, logsumexp)
        grads = _flash_gradients(problem, lost, grad_output, output, logsumexp)
    parts = min(torch.get_num_threads(), _MOST_PARTS)
    read = [_rows(tensor) for tensor in (problem.query, grad_output, logsumexp, delta)]
    query_parts = read[0].new_zeros(parts, *read[0].shape)
    strength_parts = read[0].new_zeros(parts, query.shape[0], query.shape[2], 2)
    problem.call('backward', lost, *read, query_parts, *grads[1:], strength_parts, parts=parts)
    grads[0] += query_parts.sum(0)
    grad_strength = strength_parts.sum(0)
    if folded:
        grad_strength += grads[0][..., channels:].sum(2) / scale * _whole(windows)
    of_query, of_key, of_value = (grad.transpose(1, 2)[..., :channels] for grad in grads)
    return of_query, of_key, of_value, grad_strength


@dataclass(frozen=True)
class _Problem:
    """Arguments of :func:`attend` as the kernels take them.

    The bias on a whole modality is folded into two more channels: the query's hold the strengths,
    the keys' tell the modalities. What remains are windows.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    windows: QueryWindows
    strength: Tensor | None
    scale: float

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
        """From the arguments."""
        dtype = torch.promote_types(query.dtype, torch.float32)
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
        strength = None if strength is None else strength.to(dtype)
        if strength is not None and windows.has_whole_modality():
            of_query = (strength * _whole(windows) / scale).unsqueeze(1)
            is_camera = torch.arange(key.shape[2]) >= windows.layout.num_lidar_tokens
            of_key = torch.stack((~is_camera, is_camera), dim=-1).to(dtype)
            query = torch.cat((query, of_query.expand(*query.shape[:3], 2)), dim=-1)
            key = torch.cat((key, of_key.expand(*key.shape[:3], 2)), dim=-1)
            value = F.pad(value, (0, 2))
            lidar, camera = (Window(-1) if w.radius is None else w for w in windows.shapes)
            windows = replace(windows, shapes=(lidar, camera))
        # the kernels read the channels of a head as neighbours
        query, key, value = (
            tensor if tensor.stride(-1) == 1 else tensor.contiguous()
            for tensor in (query, key, value)
        )
        return cls(query, key, value, windows, strength, scale)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value."""
        return self.query, self.key, self.value

    @property
    def most_masked(self) -> int:
        """So many queries at once have a mask as large as the keys."""
        return self.query.shape[1] * self.query.shape[3]

    def part(self, part: slice, queries: Tensor) -> '_Problem':
        """That of one batch element and some of its queries."""
        query = self.query[part][:, :, queries]
        cells = self.windows.cells[part][:, queries]
        windows = replace(self.windows, cells=cells)
        assert self.strength is not None
        strength = self.strength[part][:, queries]
        return _Problem(query, self.key[part], self.value[part], windows, strength, self.scale)

    def mask(self) -> Tensor:
        """``(B, 1, Q, K)`` bias of the windows."""
        assert self.strength is not None
        return dense_bias(WindowedBias(self.windows, self.strength)).unsqueeze(1)

    def flash(self, with_mask: bool = False) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of torch's kernel, without the windows' bias or with it."""
        mask = self.mask() if with_mask else None
        return _aten._scaled_dot_product_flash_attention_for_cpu(
            *self.tensors, attn_mask=mask, scale=self.scale
        )

    def flash_backward(
        self, grad_output: Tensor, output: Tensor, logsumexp: Tensor, with_mask: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value by torch's kernel, for any output and log-sum-exp."""
        mask = self.mask() if with_mask else None
        return _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *(grad_output, *self.tensors, output, logsumexp, 0.0, False),
            attn_mask=mask,
            scale=self.scale,
        )

    def call(self, name: str, *tensors: Tensor, parts: int = 1) -> None:
        """Call a function of the kernel, in place of whose pointers tensors are given."""
        layout, shapes = self.windows.layout, self.windows.shapes
        cells = self.windows.cells.contiguous()
        strength = None if self.strength is None else self.strength.contiguous()
        bev, view = layout.bev_shape or (0, 0), layout.view_shape or (0, 0)
        # as the struct in cpu_kernel.cpp has them
        numbers = struct.pack(
            '25q3d',
            *(*self.query.shape[:3], *self.key.shape[2:], torch.get_num_threads(), parts),
            *(int(layout.bev_shape is not None), layout.num_views),
            *(bev[0], view[0], bev[1], view[1]),
            *(-1 if window.radius is None else window.radius for window in shapes),
            *(cells.data_ptr(), 0 if strength is None else strength.data_ptr()),
            *(
                number
                for t in (self.key, self.value)
                for number in (t.data_ptr(), *t.stride()[:3])
            ),
            *(*(window.sigma or 0.0 for window in shapes), self.scale),
        )
        kernel: Any = load_kernel()
        function = getattr(kernel, f'{name}_{str(self.query.dtype).removeprefix("torch.")}')
        function(numbers, *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors))


def _whole(windows: QueryWindows) -> Tensor:
    """``(2,)`` 1 for LiDAR and cameras if they count as a whole, else 0."""
    return torch.tensor([float(window.radius is None) for window in windows.shapes])


def _rows(tensor: Tensor) -> Tensor:
    """``(B, H, N, ...)`` to contiguous ``(B, N, H, ...)``: a view if heads were split off so."""
    return tensor.transpose(1, 2).contiguous()


def _lost_mass(unbiased: Tensor, logsumexp: Tensor) -> Tensor:
    """``(B, Q)`` True for queries of which the bias leaves a head too little mass.

    Args:
        unbiased: ``(B, H, Q)`` log-sum-exp without the windows' bias.
        logsumexp: ``(B, H, Q)`` with it.
    """
    # not the contrary: NaN counts as lost
    return ~(logsumexp - unbiased >= math.log(_SMALLEST_SHARE)).all(1)


def _groups(chosen: Tensor, most: int) -> Iterator[tuple[slice, Tensor]]:
    """Batch elements and their chosen queries ``(B, Q)``, so many at once at most."""
    if chosen.any():
        for element, of_element in enumerate(chosen):
            for queries in of_element.nonzero().squeeze(1).split(most):
                if len(queries):
                    yield slice(element, element + 1), queries


def _flash_gradients(
    problem: _Problem, lost: Tensor, grad_output: Tensor, output: Tensor, logsumexp: Tensor
) -> list[Tensor]:
    """Gradients ``(B, N, H, D)`` without the windows' bias, but those of lost queries with it.

    Args:
        problem: The problem.
        lost: ``(B, Q)``.
        grad_output: ``(B, H, Q, D)``.
        output: ``(B, H, Q, D)``.
        logsumexp: ``(B, H, Q)``.
    """
    if not lost.any():
        return [_rows(grad) for grad in problem.flash_backward(grad_output, output, logsumexp)]
    grads = [_rows(torch.zeros_like(tensor)) for tensor in problem.tensors]
    for chosen, with_mask in ((~lost, False), (lost, True)):
        most = problem.most_masked if with_mask else lost.shape[1]
        for part, queries in _groups(chosen, most):
            given = grad_output, output, logsumexp
            grad, its_output, its_sum = (tensor[part][:, :, queries] for tensor in given)
            some = problem.part(part, queries)
            found = some.flash_backward(grad, its_output, its_sum, with_mask)
            grads[0][part, queries] = _rows(found[0])
            grads[1][part] += _rows(found[1])
            grads[2][part] += _rows(found[2])
    return grads
