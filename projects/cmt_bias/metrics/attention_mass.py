"""Where the attention of queries goes: to which sensor, inside or outside of their windows.

B batch, H heads, Q queries, K keys (tokens, the LiDAR's first), D channels of a head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..cmt.transformer import PETRTransformerDecoderLayer
from ..ops import WindowedBias, dense_bias
from ..unwrapping import unwrapped

PARTS = ('lidar_windows', 'lidar_elsewhere', 'camera_elsewhere', 'camera_windows')
"""The last axis of :func:`attention_mass`."""


def watch_attention(
    model: nn.Module, receive: Callable[[Tensor, Tensor, WindowedBias | None], object]
) -> list[RemovableHandle]:
    """Have ``query``, ``key`` and ``bias`` of every cross-attention, as below, until removed."""

    def before(attention: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        query, key, _ = attention.project_heads(*args, kwargs['query_pos'], kwargs['key_pos'])
        receive(query, key, kwargs.get('logit_bias'))

    return [
        module.cross_attention.register_forward_pre_hook(before, with_kwargs=True)
        for module in unwrapped(model).modules()
        if isinstance(module, PETRTransformerDecoderLayer)
    ]


@torch.no_grad()
def attention_shares(query: Tensor, key: Tensor, bias: WindowedBias | None = None) -> Tensor:
    """The decoder's attention: the softmax over all K keys of ``query . key / sqrt(D)`` + bias.

    ``query``, ``(B, H, Q, D)``, and ``key``, ``(B, H, K, D)``, are projected. Returns
    ``(B, Q, K)``, the mean over the heads, in the query's type, float32 for half precision. The
    logits of all queries exist at once.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    logits = query.to(dtype) * query.shape[-1] ** -0.5 @ key.to(dtype).transpose(-1, -2)
    if bias is not None:
        logits = logits + dense_bias(bias).to(dtype).unsqueeze(1)
    return logits.softmax(dim=-1).mean(dim=1)


def attention_mass(query: Tensor, key: Tensor, bias: WindowedBias) -> Tensor:
    """Sum :func:`attention_shares` over the tokens of each sensor, in and outside the windows.

    A sensor without a window (``window_size=None``) is one window for every query. Returns
    ``(2, B, Q, 4)``: without and with the bias; :data:`PARTS`, whose sum is 1. One query is
    worked on at a time.
    """
    lidar = torch.arange(key.shape[2], device=key.device) < bias.windows.layout.num_lidar_tokens
    masses = []
    for number in range(query.shape[2]):
        one, its_bias = query[:, :, number, None], bias.of_queries(slice(number, number + 1))
        shares = torch.cat([attention_shares(one, key, b) for b in (None, its_bias)], dim=1)
        inside = its_bias.windows.to_mask()  # (B, 1, K)
        parts = (inside & lidar, ~inside & lidar, ~inside & ~lidar, inside & ~lidar)
        masses.append(torch.stack([(shares * part).sum(-1) for part in parts], dim=-1))
    stacked = torch.stack(masses) if masses else query.new_zeros(0, len(query), 2, len(PARTS))
    return stacked.permute(2, 1, 0, 3)
