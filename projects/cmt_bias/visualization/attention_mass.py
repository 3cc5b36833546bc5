"""Where the attention of queries goes: to which sensor, inside or outside of their windows.

Shape letters: B batch, H heads, Q queries, K keys (tokens of the memory, the LiDAR's first), D
channels of a head.
"""

import torch
from torch import Tensor

from ..ops import WindowedBias, dense_bias

PARTS = ('lidar_windows', 'lidar_elsewhere', 'camera_elsewhere', 'camera_windows')
"""The last axis of :func:`attention_mass`."""


@torch.no_grad()
def attention_mass(query: Tensor, key: Tensor, bias: WindowedBias) -> Tensor:
    """Sum attention probabilities over the tokens of each sensor, in and outside the windows.

    The probabilities are the decoder's: the softmax over all K keys of ``query . key / sqrt(D)``,
    without and with the bias, for each head; their mean over the heads is summed. A sensor without
    a window (``window_size=None``) is one window for every query. One query is worked on at a
    time, so that the logits of all never exist at once.

    Args:
        query: ``(B, H, Q, D)`` projected queries.
        key: ``(B, H, K, D)`` projected keys.
        bias: The bias of this layer.

    Returns:
        ``(2, B, Q, 4)``: without and with the bias; the parts of :data:`PARTS`, whose sum is 1.
        In the query's type, float32 for half precision.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, keys = query.to(dtype) * query.shape[-1] ** -0.5, key.to(dtype).transpose(-1, -2)
    lidar = torch.arange(key.shape[2], device=key.device) < bias.windows.layout.num_lidar_tokens
    masses = query.new_empty(2, len(query), query.shape[2], len(PARTS))
    for number in range(query.shape[2]):
        one = bias.of_queries(slice(number, number + 1))
        logits = query[:, :, number, None] @ keys  # (B, H, 1, K)
        logits = torch.stack([logits, logits + dense_bias(one).to(dtype).unsqueeze(1)])
        shares = logits.softmax(dim=-1).mean(dim=2)[:, :, 0]  # (2, B, K)
        inside = one.windows.to_mask()[:, 0]  # (B, K)
        parts = (inside & lidar, ~inside & lidar, ~inside & ~lidar, inside & ~lidar)
        masses[:, :, number] = torch.stack([(shares * part).sum(-1) for part in parts], dim=-1)
    return masses
