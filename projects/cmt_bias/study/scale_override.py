"""Run a trained model with another bias scale than it has learned."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..bias.scale import BiasScale


@contextmanager
def scale_override(generator: BiasScale, scale: float | None) -> Iterator[None]:
    """Within the context every entry of the scale in effect is this value.

    The range of the scale (``min_scale``, ``max_scale``, or where an annealing has left it) does
    not hold within, so values beyond it are in effect as they are. Afterwards scale and range are
    what they were, bit for bit, also after an error. For evaluation: an optimizer's step within
    the context would be lost.

    Args:
        generator: Of the bias.
        scale: In logits, for all layers and modalities; None changes nothing.
    """
    if scale is None:
        yield
        return
    tensors = (generator.bias_scale, generator.scale_range)
    kept = [tensor.detach().clone() for tensor in tensors]
    with torch.no_grad():
        generator.bias_scale.fill_(scale)
    generator.set_scale_range(None, None)
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(tensors, kept, strict=True):
                tensor.copy_(before)
