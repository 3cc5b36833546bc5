"""Where the attention of queries goes: to which sensor, inside or outside of their windows.

Shape letters: B batch, H heads, Q queries, K keys (tokens of the memory, the LiDAR's first), D
channels of a head.
"""

import torch
from torch import Tensor

from ..ops import WindowedBias, dense_bias

PARTS = ('lidar_windows', 'lidar_elsewhere', 'camera_elsewhere', 'camera_windows')
"""The last axis of :func:`attention_mass`."""

MAX_LOGITS = 2**24
"""Logits computed at once, 64 MiB in float32."""


@torch.no_grad()
def attention_mass(
    query: Tensor,
    key: Tensor,
    bias: WindowedBias,
    max_logits: int = MAX_LOGITS,
) -> Tensor:
    """Sum attention probabilities over the tokens of each sensor, in and outside the windows.

    The probabilities are the decoder's: the softmax over all K keys of ``query . key / sqrt(D)``,
    without and with the bias, for each head; their mean over the heads is summed. A sensor without
    a window (``window_size=None``) is one window for every query. A few queries at a time are
    worked on, so that no more than ``max_logits`` logits exist at once.

    Args:
        query: ``(B, H, Q, D)`` projected queries.
        key: ``(B, H, K, D)`` projected keys.
        bias: The bias of this layer.
        max_logits: Limit of the memory that is needed; one query at least is worked on.

    Returns:
        ``(2, B, Q, 4)``: without and with the bias; the parts of :data:`PARTS`, whose sum is 1.
        In the query's type, float32 for half precision.
    """
    batch_size, num_heads, num_queries, _ = query.shape
    key = key.to(torch.promote_types(key.dtype, torch.float32))
    size = max(1, max_logits // (batch_size * num_heads * key.shape[2]))
    numbers = torch.arange(num_queries, device=query.device)
    return torch.cat(
        [
            _mass_of_queries(query[:, :, some], key, bias.of_queries(some))
            for some in numbers.split(size)
        ],
        dim=2,
    )


def _mass_of_queries(query: Tensor, key: Tensor, bias: WindowedBias) -> Tensor:
    """``(2, B, Q, 4)`` with all logits at once."""
    split = [bias.windows.layout.num_lidar_tokens]
    logits = (query.to(key.dtype) * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    added = dense_bias(bias).to(logits).unsqueeze(1)  # (B, 1, Q, K)
    in_windows = bias.windows.to_mask()
    masses = []
    for biased in (logits, logits + added):
        share = biased.softmax(dim=-1).mean(dim=1)  # (B, Q, K)
        lidar, camera = share.tensor_split(split, dim=-1)
        lidar_window, camera_window = in_windows.tensor_split(split, dim=-1)
        parts = [
            (lidar * lidar_window).sum(-1),
            (lidar * ~lidar_window).sum(-1),
            (camera * ~camera_window).sum(-1),
            (camera * camera_window).sum(-1),
        ]
        masses.append(torch.stack(parts, dim=-1))
    return torch.stack(masses)
