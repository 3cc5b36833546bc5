"""Look at the bias's weights and at the scale's gradient, in those iterations that are logged.

Both are hooks of torch that are there for single iterations, so that all others cost nothing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

MODALITIES = ('lidar', 'camera')


@dataclass(frozen=True)
class WeightStatistics:
    """Mean and standard deviation of the weights of all queries of a batch."""

    lidar_mean: float
    lidar_std: float
    camera_mean: float
    camera_std: float

    def all_zero(self, modality: str) -> bool:
        """Whether every weight of a modality is exactly 0."""
        mean, std = (getattr(self, f'{modality}_{kind}') for kind in ('mean', 'std'))
        return mean == 0 and std == 0


class WeightProbe:
    """Mean and spread of what a weight generator returns, in this process.

    The weights are reduced at once and not kept. Several calls in an iteration count together.
    """

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None
        self._sums: Tensor | None = None

    def attach(self, weight_generator: nn.Module) -> None:
        """Begin to look at a module that returns two tensors ``(B, Q)``: LiDAR, camera."""
        self.detach()
        self._sums = None
        self._handle = weight_generator.register_forward_hook(self._add)

    def detach(self) -> None:
        """Stop looking."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _add(self, module: nn.Module, inputs: Any, weights: tuple[Tensor, Tensor]) -> None:
        # Count, sum and sum of squares of each modality; in double precision, because the variance
        # is the small difference of two large numbers when all weights are nearly equal.
        both = [modality.detach().double().flatten() for modality in weights]
        sums = torch.stack(
            [torch.stack((torch.ones_like(w).sum(), w.sum(), w.square().sum())) for w in both]
        )
        self._sums = sums if self._sums is None else self._sums + sums

    def statistics(self) -> WeightStatistics | None:
        """What was seen since :meth:`attach`; None if the module was not called."""
        if self._sums is None:
            return None
        count, total, squares = self._sums.unbind(dim=1)
        mean = total / count
        variance = squares / count - mean.square()
        # Rounding may leave less than nothing of equal weights; a NaN stays one.
        deviation = torch.where(variance < 0, 0.0, variance).sqrt()
        lidar, camera = torch.stack((mean, deviation), dim=1).tolist()
        return WeightStatistics(*lidar, *camera)


class GradientProbe:
    """The gradient with which the optimizer makes its latest step.

    It is read when the step begins. So it is the mean over all processes and all accumulated
    iterations (by whose number mmengine divides the loss), without the loss scale of mixed
    precision, and after clipping. A step that the loss scaler leaves out (an overflow) is not
    seen.

    Attributes:
        stepped: Whether the optimizer has made a step since :meth:`clear`.
        gradient: The gradient at the latest such step, in a flat copy ``(n,)``; None if there was
            none.
    """

    def __init__(self, optimizer: Optimizer, parameter: Tensor) -> None:
        self._optimizer = optimizer
        self._parameter = parameter
        self._handle: RemovableHandle | None = None
        self.clear()

    def clear(self) -> None:
        """Forget what was seen."""
        self.stepped = False
        self.gradient: Tensor | None = None

    def attach(self) -> None:
        """Begin to look at the optimizer's steps."""
        if self._handle is None:
            self._handle = self._optimizer.register_step_pre_hook(self._read)

    def detach(self) -> None:
        """Stop looking."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _read(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # A fused optimizer is called in every case, and itself divides by the loss scale and
        # leaves out the step after an overflow.
        overflow = getattr(optimizer, 'found_inf', None)
        if overflow is not None and bool(overflow):
            return
        loss_scale = getattr(optimizer, 'grad_scale', None)
        gradient = self._parameter.grad
        self.stepped = True
        self.gradient = None
        if gradient is not None:
            self.gradient = gradient.detach().flatten() / (
                1.0 if loss_scale is None else loss_scale
            )
