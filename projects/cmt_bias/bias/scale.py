"""A range for a learned number that it can leave again."""

from typing import Any

import torch
from torch import Tensor


class _ClampWithInwardGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward(value, low, high)
        return torch.minimum(torch.maximum(value, low), high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        value, low, high = ctx.saved_tensors
        (gradient,) = gradients
        # Descent goes against the gradient: at the upper bound only a positive one leads inwards.
        outward = ((value >= high) & (gradient < 0)) | ((value <= low) & (gradient > 0))
        return gradient.masked_fill(outward, 0), None, None


def clamp_with_inward_gradient(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clamp, with a gradient that can lead back from a bound.

    A plain clamp has no gradient outside its range, so that a parameter pushed past a bound stays
    there for good; without a clamp in the backward pass, an optimizer's momentum grows against
    the bound and has to be worked off first. Here the gradient at or beyond a bound passes where
    descent would lead inwards and is zero where it would lead further out.

    Args:
        value: Any shape.
        low: Lower bound, broadcast; ``-inf`` for none.
        high: Upper bound, broadcast; ``inf`` for none.

    Returns:
        The clamped value, in ``value``'s shape.
    """
    return _ClampWithInwardGradient.apply(value, low, high)
