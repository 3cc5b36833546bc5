"""The reference: the bias as one dense mask."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .segments import Segment
from .window_rows import compute_dtype


def dense_bias(
    index: Tensor, bias: Tensor, num_keys: int, segments: Sequence[Segment] = ()
) -> Tensor:
    """Scatter the bias of windows and segments.

    Args:
        index: ``(B, Q, W)`` int64 keys, -1 for none.
        bias: ``(..., B, Q, W)``.
        num_keys: K.
        segments: Biases ``(..., B, Q)`` on ranges of keys.

    Returns:
        ``(..., B, Q, K)``; a key named twice has the sum.
    """
    found = index >= 0
    # what slots without a key hold goes to one more key, which is cut off
    slots = index.where(found, num_keys).expand_as(bias)
    dense = bias.new_zeros(*bias.shape[:-1], num_keys + 1)
    dense = dense.scatter_add(-1, slots, bias)[..., :num_keys]
    for start, stop, values in segments:
        of_keys = values.unsqueeze(-1).expand(*values.shape, stop - start)
        dense = dense + F.pad(of_keys, (start, num_keys - stop))
    return dense


def dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    bias: Tensor,
    scale: float,
    segments: Sequence[Segment] = (),
) -> Tensor:
    """Attention with a dense mask, one for all heads; arguments as in the operator.

    Half precision is computed in float32: a bias of 30 in bfloat16 would be wrong by up to 0.06.
    """
    dtype = compute_dtype(query.dtype)
    mask = dense_bias(index, bias, key.shape[2], segments).to(dtype).unsqueeze(1)
    output = F.scaled_dot_product_attention(
        query.to(dtype), key.to(dtype), value.to(dtype), attn_mask=mask, scale=scale
    )
    return output.to(query.dtype)
