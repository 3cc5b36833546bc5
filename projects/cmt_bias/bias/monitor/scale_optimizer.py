"""What the optimizer does with the bias scale: its rate, its gradient, how far it can move it."""

from typing import Any

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from ...learning_rate_peaks import play_schedule, schedules_of, training_length, unforeseeable


class ScaleOptimizer:
    """The optimizer that moves the bias scale, which is in its group ``group_index``."""

    def __init__(self, wrapper: OptimWrapper, group_index: int, scale: Tensor) -> None:
        self._optimizer: Optimizer = wrapper.optimizer
        self._group_index = group_index
        self._scale = scale
        self.group: dict[str, Any] = self._optimizer.param_groups[group_index]
        # Iterations to one step.
        self.accumulated: int = getattr(wrapper, '_accumulative_counts', 1)
        # Whether a step is about as long as the learning rate, whatever the gradient.
        self.is_like_adam = 'betas' in self.group
        self.lacks_gradient = False  # of the scale, at the latest step
        self._gradient = torch.zeros_like(scale).detach().flatten()
        self._has_stepped: Tensor | bool = False
        # To be removed when no more steps are to be looked at.
        self.handle = self._optimizer.register_step_pre_hook(self._keep_gradient)

    def _keep_gradient(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        gradient, loss_scale = self._scale.grad, getattr(optimizer, 'grad_scale', None)
        self.lacks_gradient = gradient is None
        if gradient is None:
            return
        gradient = gradient.detach().flatten() / (1 if loss_scale is None else loss_scale)
        # A fused optimizer is called in every case, and itself divides by the loss scale and
        # leaves out the step after an overflow. To ask whether it does would wait for the device.
        found_inf = getattr(optimizer, 'found_inf', None)
        if found_inf is None:
            self._gradient, self._has_stepped = gradient, True
        else:
            steps = found_inf == 0
            self._gradient = torch.where(steps, gradient, self._gradient)
            self._has_stepped = steps | self._has_stepped

    @property
    def gradient(self) -> list[float] | None:
        """Of the flattened scale, at the latest step; None before the first, or if that had none.

        It is the mean over all processes and all accumulated iterations (by whose number mmengine
        divides the loss), without the loss scale of mixed precision, and after clipping.
        """
        if self.lacks_gradient or not self._has_stepped:
            return None
        return self._gradient.tolist()

    def travel(self, runner: Runner) -> float | None:
        """How far the optimizer can move the scale from here on; None if that is not known.

        It is the sum of the learning rate over the steps that are left, by the schedulers in the
        state that they have: after a resume, the checkpoint's. A step of Adam is about as long as
        the learning rate when its gradients agree, and shorter when they do not.
        """
        found = runner.param_schedulers or []
        lists = found.values() if isinstance(found, dict) else [found]
        schedules = schedules_of(self._optimizer, [s for several in lists for s in several])
        length = training_length(runner)
        if length is None or unforeseeable(schedules):
            return None
        end, epoch_length = length
        rates, kinds = play_schedule(self._optimizer, schedules, end - runner.iter, epoch_length)
        # With accumulated gradients the optimizer steps in every n-th iteration, and in the last.
        steps = [i % self.accumulated == 0 or i == end for i in range(runner.iter + 1, end + 1)]
        return float(rates[steps, kinds[self._group_index]].sum())


def find_scale_optimizer(wrapper: OptimWrapper, scale: Tensor) -> ScaleOptimizer | None:
    """Find which of the runner's optimizers has the scale; None if none has."""
    for single in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
        for index, group in enumerate(single.optimizer.param_groups):
            if any(parameter is scale for parameter in group['params']):
                return ScaleOptimizer(single, index, scale)
    return None
