"""The reference: the bias as a dense tensor. It runs on any device, some queries at a time.

Shape letters: B batch, H heads, Q queries, K keys, D channels of a head, N queries of a chunk.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import QueryWindows, WindowedBias

# The largest tensor that exists for a chunk of queries, in numbers: 128 MiB in float32.
_CHUNK_NUMBERS = 2**25


def dense_bias(bias: WindowedBias) -> Tensor:
    """The bias on every key.

    Args:
        bias: The bias; differentiable in its strength.

    Returns:
        ``(B, Q, K)`` in the strength's type.
    """
    layout = bias.windows.layout
    of_modality = bias.strength.unsqueeze(-2).unbind(-1)  # (B, Q, 1) each
    counts = (layout.num_lidar_tokens, layout.num_camera_tokens)
    strength = [
        values.expand(*values.shape[:2], count)
        for values, count in zip(of_modality, counts, strict=True)
    ]
    return torch.cat(strength, dim=-1) * bias.windows.gain(bias.strength.dtype)


def why_not(
    query: Tensor, key: Tensor, windows: QueryWindows, strength: Tensor | None
) -> str | None:
    """None: there is nothing that this backend cannot do."""
    return None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    windows: QueryWindows,
    strength: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention; as operator.py says.

    Half precision is computed in float32: a bias of 30 in bfloat16 would be wrong by up to 0.06.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    output = torch.empty_like(query)
    for part in _chunks(query, key):
        mask, lone = _logit_mask(windows, strength, part, dtype)
        attended = F.scaled_dot_product_attention(
            query[:, :, part], key, value, attn_mask=mask, scale=scale
        )
        output[:, :, part] = attended.masked_fill(lone, 0)
    nothing = query.new_empty(query.shape[:3])
    return output, nothing, torch.empty_like(nothing)


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
    """Gradients; as operator.py says."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key, value, grad_output, output = (
        tensor.to(dtype) for tensor in (query, key, value, grad_output, output)
    )
    grad_query, grad_key, grad_value = (torch.zeros_like(t) for t in (query, key, value))
    grad_strength = None if strength is None else torch.zeros_like(strength, dtype=dtype)
    for part in _chunks(query, key):
        mask, lone = _logit_mask(windows, strength, part, dtype)
        some, grad = query[:, :, part], grad_output[:, :, part].masked_fill(lone, 0)
        mass = (some @ key.mT * scale).add_(mask).masked_fill_(lone, 0).softmax(-1)
        grad_value += mass.mT @ grad
        along = (grad * output[:, :, part]).sum(-1, keepdim=True)
        grad_logits = (grad @ value.mT).sub_(along).mul_(mass)
        grad_query[:, :, part] = grad_logits @ key * scale
        grad_key += grad_logits.mT @ some * scale
        if grad_strength is not None:
            of_keys = windows.of_queries(part).gain(dtype) * grad_logits.sum(1)
            split = windows.layout.num_lidar_tokens
            grad_strength[:, part, 0] = of_keys[..., :split].sum(-1)
            grad_strength[:, part, 1] = of_keys[..., split:].sum(-1)
    return grad_query, grad_key, grad_value, grad_strength


def _chunks(query: Tensor, key: Tensor) -> Iterator[slice]:
    """Queries that are computed at once."""
    numbers_of_one = query.shape[0] * query.shape[1] * key.shape[2]
    count = max(1, _CHUNK_NUMBERS // max(1, numbers_of_one))
    for start in range(0, query.shape[2], count):
        yield slice(start, start + count)


def _logit_mask(
    windows: QueryWindows, strength: Tensor | None, part: slice, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``(B, 1, N, K)`` what is added to logits, ``(B, 1, N, 1)`` True for queries without keys."""
    some = windows.of_queries(part)
    if strength is not None:
        mask = dense_bias(WindowedBias(some, strength[:, part].to(dtype))).unsqueeze(1)
        return mask, mask.new_zeros(*mask.shape[:3], 1, dtype=torch.bool)
    inside = some.to_mask().unsqueeze(1)
    outside = torch.zeros_like(inside, dtype=dtype).masked_fill_(~inside, -torch.inf)
    return outside, ~inside.any(-1, keepdim=True)
