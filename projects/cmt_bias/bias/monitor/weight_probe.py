"""Statistics of the weights that the bias is made of, in single iterations."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...ops import MODALITIES


class WeightProbe:
    """Mean and spread of what a weight generator returns, in this process.

    The weights are reduced at once and not kept. Several calls in an iteration count together.
    """

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None
        self._sums = torch.empty(0)

    def attach(self, weight_generator: nn.Module) -> None:
        """Begin to look at a module that returns two tensors ``(B, Q)``: LiDAR, camera."""
        self._sums = torch.zeros(())
        self._handle = weight_generator.register_forward_hook(self._add)

    def _add(self, module: nn.Module, inputs: Any, weights: tuple[Tensor, Tensor]) -> None:
        # Count, sum and sum of squares of each modality; in double precision, because the variance
        # is the small difference of two large numbers when all weights are nearly equal.
        both = torch.stack([modality.detach().double().flatten() for modality in weights], dim=1)
        self._sums = self._sums.to(both) + torch.stack(
            [(both**power).sum(dim=0) for power in range(3)]
        )

    def take(self) -> dict[str, float]:
        """Stop looking; mean and standard deviation by modality, empty if it was not called."""
        if self._handle is not None:
            self._handle.remove()
        if self._sums.dim() == 0:
            return {}
        count, total, squares = self._sums
        mean = total / count
        variance = squares / count - mean.square()
        # Rounding may leave less than nothing of equal weights; a NaN stays one.
        values = torch.stack((mean, torch.where(variance < 0, 0.0, variance).sqrt()), dim=1)
        names = [f'{modality}_{kind}' for modality in MODALITIES for kind in ('mean', 'std')]
        return dict(zip(names, values.flatten().tolist(), strict=True))
