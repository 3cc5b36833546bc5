"""CUDA: one fused kernel that adds the bias inside."""

from torch import Tensor

from .geometry import QueryWindows


def why_not(
    query: Tensor, key: Tensor, windows: QueryWindows, strength: Tensor | None
) -> str | None:
    """Why the backend cannot run on such tensors; None if it can."""
    return 'it is not there yet'
