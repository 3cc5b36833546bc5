"""The reference: the bias as a dense tensor. It runs on any device, some queries at a time.

Shape letters: B batch, H heads, Q queries, K keys, D channels of a head, N queries of a chunk.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import AttentionInputs, TokenLayout, WindowedBias

# The largest tensor that exists for a chunk of queries, in numbers: 64 MiB in float32.
_CHUNK_NUMBERS = 2**24


def dense_bias(bias: WindowedBias) -> Tensor:
    """The bias on every key.

    Args:
        bias: The bias; differentiable in its strength.

    Returns:
        ``(B, Q, K)`` in the strength's type.
    """
    lidar, camera = _by_modality(bias.windows.gain(bias.strength.dtype), bias.windows.layout)
    return torch.cat((lidar * bias.strength[..., :1], camera * bias.strength[..., 1:]), dim=-1)


def why_not(inputs: AttentionInputs) -> str | None:
    """None: there is nothing that this backend cannot do."""
    return None


def attend(inputs: AttentionInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Attention, as operator.py says; the last two are empty."""
    output = torch.empty_like(inputs.query)
    key, value = inputs.key.transpose(1, 2), inputs.value.transpose(1, 2)
    for part in _chunks(inputs):
        query, (mask, lone) = inputs.query[:, part].transpose(1, 2), _mask(inputs, part)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=inputs.scale
        )
        output[:, part] = attended.masked_fill(lone, 0).transpose(1, 2)
    logsumexp = output.new_zeros(output.shape[:3])
    return output, logsumexp, logsumexp.new_zeros(output.shape[:2], dtype=torch.bool)


def gradients(
    inputs: AttentionInputs, grad_output: Tensor, output: Tensor, *_: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients, as operator.py says."""
    grad_query, grad_key, grad_value = (torch.zeros_like(t) for t in inputs[:3])
    grad_strength = None if inputs.strength is None else torch.zeros_like(inputs.strength)
    key, value = inputs.key.transpose(1, 2), inputs.value.transpose(1, 2)
    delta = (grad_output * output).sum(-1, keepdim=True).transpose(1, 2)
    for part in _chunks(inputs):
        query, grad = (t[:, part].transpose(1, 2) for t in (inputs.query, grad_output))
        mask, lone = _mask(inputs, part)
        mass = (query @ key.mT).mul_(inputs.scale).add_(mask).softmax(-1).masked_fill_(lone, 0)
        grad_value += (mass.mT @ grad).transpose(1, 2)
        grad_logits = (grad @ value.mT).sub_(delta[:, :, part]).mul_(mass)
        grad_query[:, part] = (grad_logits @ key).transpose(1, 2) * inputs.scale
        grad_key += (grad_logits.mT @ query).transpose(1, 2) * inputs.scale
        if grad_strength is not None:
            windows = inputs.windows.of_queries(part)
            of_keys = windows.gain(grad_logits.dtype) * grad_logits.sum(1)
            sums = [keys.sum(-1) for keys in _by_modality(of_keys, windows.layout)]
            grad_strength[:, part] = torch.stack(sums, dim=-1)
    return grad_query, grad_key, grad_value, grad_strength


def _by_modality(of_keys: Tensor, layout: TokenLayout) -> tuple[Tensor, ...]:
    """``(..., K)`` of the LiDAR's and of the cameras' tokens."""
    return of_keys.tensor_split((layout.num_lidar_tokens,), dim=-1)


def _chunks(inputs: AttentionInputs) -> Iterator[slice]:
    """Queries that are computed at once."""
    (batch, queries, heads, _), keys = inputs.query.shape, inputs.key.shape[1]
    count = max(1, _CHUNK_NUMBERS // max(1, batch * heads * keys))
    return (slice(start, start + count) for start in range(0, queries, count))


def _mask(inputs: AttentionInputs, part: slice) -> tuple[Tensor, Tensor]:
    """``(B, 1, N, K)`` what is added to logits, ``(B, 1, N, 1)`` True for queries without keys."""
    windows = inputs.windows.of_queries(part)
    if inputs.strength is not None:
        mask = dense_bias(WindowedBias(windows, inputs.strength[:, part])).unsqueeze(1)
        return mask, mask.new_zeros(*mask.shape[:3], 1, dtype=torch.bool)
    inside = windows.to_mask().unsqueeze(1)
    mask = torch.zeros_like(inside, dtype=inputs.query.dtype).masked_fill_(~inside, -torch.inf)
    return mask, ~inside.any(-1, keepdim=True)
