"""The bias inside torch's ``flex_attention``."""

from collections.abc import Sequence

from torch import Tensor

from .segments import Segment


def why_not_flex(query: Tensor, key: Tensor, needs_grad: bool) -> str | None:
    """Why ``flex_attention`` cannot run; None if it can."""
    return 'it is not written yet'


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    bias: Tensor,
    scale: float,
    segments: Sequence[Segment] = (),
) -> Tensor:
    """Attention; arguments as in the operator."""
    raise NotImplementedError
