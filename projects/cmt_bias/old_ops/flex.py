"""The bias inside torch's ``flex_attention``, whose scores any function of positions can change.

Which slot of a query's window a key fills is arithmetic, as long as the slots are windows cut from
grids. Gradients of the bias are summed by the kernel in no fixed order: they are not
reproducible to the last digit.

Shape letters: B batch, H heads, Q queries, K keys, W window slots, D channels of a head, J blocks
of slots (:func:`cmt_bias.ops.window_groups.find_blocks`).
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from .segments import Segment
from .window_groups import SlotBlock, find_blocks


def why_not_flex(query: Tensor, key: Tensor, needs_grad: bool) -> str | None:
    """Why ``flex_attention`` cannot run; None if it can."""
    if query.device.type not in ('cpu', 'cuda'):
        return f"there is no kernel for device type '{query.device.type}'"
    if query.device.type == 'cpu' and needs_grad:
        return 'flex_attention has no backward pass on CPU'
    if query.dtype == torch.float64:
        return 'its kernels do not take float64'
    if not (query.numel() and key.numel()):
        return 'its kernels do not take empty tensors'
    return None


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    bias: Tensor,
    scale: float,
    segments: Sequence[Segment] = (),
) -> Tensor:
    """Attention with a bias on window keys; arguments as in the operator.

    Raises:
        RuntimeError: If the indices are not those of windows cut from grids.
    """
    if not torch.is_grad_enabled():
        # torch refuses parameters on CPU even where no gradient is wanted
        query, key, value = query.detach(), key.detach(), value.detach()
    add_bias = _score_mod(index, bias, segments)
    return _kernel(query.device.type)(query, key, value, score_mod=add_bias, scale=scale)


@cache
def _kernel(device_type: str) -> Callable[..., Tensor]:
    """The compiled kernel; uncompiled, flex_attention stores all scores."""
    # For a second size torch 2.13 compiles one for any size, which for a CPU is no valid C++.
    dynamic = False if device_type == 'cpu' else None
    return torch.compile(torch_flex.flex_attention, dynamic=dynamic)


def _score_mod(
    index: Tensor, bias: Tensor, segments: Sequence[Segment]
) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The function ``(score, b, h, q, k) -> score``."""
    blocks = find_blocks(index.flatten(0, 1))
    # (B, Q, J)
    corners = torch.stack([_corners(index, block) for block in blocks], -1) if blocks else index
    # A key one row on may look like one beyond the edge of its grid; that slot adds nothing.
    bias = bias.where(index >= 0, 0)

    def add_bias(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        for number, block in enumerate(blocks):
            offset = k - corners[b, q, number]
            row, column = offset // block.stride, offset % block.stride
            inside = (offset >= 0) & (row < block.rows) & (column < block.columns)
            slot = torch.where(inside, block.start + row * block.columns + column, block.start)
            score = score + torch.where(inside, bias[b, q, slot], 0)
        for start, stop, values in segments:
            score = score + torch.where((k >= start) & (k < stop), values[b, q], 0)
        return score

    return add_bias


def _corners(index: Tensor, block: SlotBlock) -> Tensor:
    """Keys ``(B, Q)`` of a block's first slot, be it in the grid or not.

    Without any key, a number so large that all keys lie before it.
    """
    keys = index[..., block.start : block.stop]
    slot = torch.arange(block.stop - block.start, device=index.device)
    offset = slot // block.columns * block.stride + slot % block.columns
    found = keys >= 0
    nothing = torch.iinfo(torch.int32).max
    corner = (keys - offset).where(found, nothing).amin(-1)
    if not ((keys - offset == corner.unsqueeze(-1)) | ~found).all():
        raise RuntimeError(
            "attention backend 'flex' cannot run: the indices are not those of windows cut from "
            'grids, slot by slot.'
        )
    return corner
