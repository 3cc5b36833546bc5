"""torch's fused attention kernels, with the log-sum-exp that ``torch.nn.functional`` hides.

The backward kernels take the output and the log-sum-exp as arguments: given those of attention
with a bias they yield the gradients of the keys on which there is none.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class FlashResult:
    """What a forward kernel returns.

    Attributes:
        output: ``(B, H, Q, D)``.
        logsumexp: ``(B, H, Q)`` in float32, or float64 for float64.
        random_state: What the kernel's backward wants to know about dropout, which is 0 here.
    """

    output: Tensor
    logsumexp: Tensor
    random_state: tuple[Tensor, ...] = ()


def why_not_flash(query: Tensor, key: Tensor) -> str | None:
    """Why no kernel can take these tensors; None if one can."""
    if query.device.type not in ('cpu', 'cuda'):
        return f"there is no kernel for device type '{query.device.type}'"
    if not query.is_floating_point():
        return f'the kernels take floating point tensors, not {query.dtype}'
    if query.device.type == 'cuda' and query.dtype == torch.float64:
        return 'the CUDA kernels do not take float64'
    if query.device.type == 'cuda' and query.shape[-1] % 8:
        return f'the CUDA kernels want channels in multiples of 8, not {query.shape[-1]}'
    if not (query.numel() and key.numel()):
        return 'the kernels do not take empty tensors'
    return None


def flash_forward(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None
) -> FlashResult:
    """Attention.

    Args:
        query: ``(B, H, Q, D)``.
        key: ``(B, H, K, D)``.
        value: ``(B, H, K, D)``.
        scale: Factor on the products of queries and keys.
        mask: ``(B, 1, Q, K)`` added to them, or None.

    Returns:
        Output and log-sum-exp.
    """
    query, key, value = (_with_unit_stride(tensor) for tensor in (query, key, value))
    if query.device.type == 'cpu':
        return FlashResult(
            *_aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, attn_mask=_mask_for_cpu(mask, query), scale=scale
            )
        )
    if mask is None and query.dtype in _HALF:
        output, logsumexp, _, _, _, _, seed, offset, _ = _aten._scaled_dot_product_flash_attention(
            query, key, value, scale=scale
        )
        return FlashResult(output, logsumexp, (seed, offset))
    output, logsumexp, seed, offset = _aten._scaled_dot_product_efficient_attention(
        query, key, value, _mask_for_cuda(mask, query), True, scale=scale
    )
    # the kernel rounds the number of queries up
    return FlashResult(output, logsumexp[..., : query.shape[2]], (seed, offset))


def flash_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    result: FlashResult,
    scale: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of attention, for any output and log-sum-exp.

    Args:
        grad_output: ``(B, H, Q, D)``.
        query: ``(B, H, Q, D)``.
        key: ``(B, H, K, D)``.
        value: ``(B, H, K, D)``.
        result: Output and log-sum-exp; the random state as the forward kernel left it.
        scale: As in the forward pass.
        mask: As in the forward pass.

    Returns:
        Gradients of query, key and value.
    """
    grad_output, query, key, value = (
        _with_unit_stride(tensor) for tensor in (grad_output, query, key, value)
    )
    output, logsumexp = result.output, result.logsumexp
    if query.device.type == 'cpu':
        return _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_output, query, key, value, output, logsumexp, 0.0, False,
            attn_mask=_mask_for_cpu(mask, query), scale=scale,
        )  # fmt: skip
    if mask is None and query.dtype in _HALF:
        return _aten._scaled_dot_product_flash_attention_backward(
            grad_output, query, key, value, output, logsumexp.contiguous(), None, None,
            query.shape[2], key.shape[2], 0.0, False, *result.random_state, scale=scale,
        )  # fmt: skip
    logsumexp = F.pad(logsumexp, (0, -logsumexp.shape[-1] % 32))
    return _aten._scaled_dot_product_efficient_attention_backward(
        grad_output, query, key, value, _mask_for_cuda(mask, query), output, logsumexp,
        *result.random_state, 0.0, [True, True, True, False], False, scale=scale,
    )[:3]  # fmt: skip


def _with_unit_stride(tensor: Tensor) -> Tensor:
    """The kernels read the channels of a head as neighbours."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _mask_for_cpu(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """Half precision goes with a float32 mask; float64 with a float32 mask gives wrong results."""
    if mask is None:
        return None
    return mask.to(torch.float32 if query.dtype in _HALF else query.dtype)


def _mask_for_cuda(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """The kernel reads rows of a mask in the query's type, for all heads, aligned to 16 bytes."""
    if mask is None:
        return None
    keys = mask.shape[-1]
    mask = F.pad(mask.to(query.dtype), (0, -keys % 16))[..., :keys]
    return mask.expand(-1, query.shape[1], -1, -1)
