"""What the optimizer does with the bias scale: its parameter group, its learning rate, its way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler
from torch import Tensor
from torch.optim import Optimizer

from ...learning_rate_peaks import scheduled_learning_rates


@dataclass(frozen=True)
class ScaleOptimizer:
    """The optimizer that moves the bias scale.

    Attributes:
        wrapper: mmengine's wrapper of the optimizer.
        group_index: Which of the optimizer's parameter groups has the scale.
    """

    wrapper: OptimWrapper
    group_index: int

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer itself."""
        return self.wrapper.optimizer

    @property
    def group(self) -> dict:
        """The parameter group that has the scale."""
        return self.optimizer.param_groups[self.group_index]

    @property
    def accumulated(self) -> int:
        """Iterations to one step of the optimizer."""
        return getattr(self.wrapper, '_accumulative_counts', 1)

    @property
    def is_like_adam(self) -> bool:
        """Whether a step is about as long as the learning rate, whatever the gradient's size."""
        return 'betas' in self.group


def find_scale_optimizer(wrapper: OptimWrapper, scale: Tensor) -> ScaleOptimizer | None:
    """Find the parameter group that has the bias scale.

    Args:
        wrapper: The runner's optimizer wrapper, also one of several optimizers.
        scale: The scale.

    Returns:
        The group; None if no optimizer has the scale.
    """
    for single in _single_wrappers(wrapper):
        for index, group in enumerate(single.optimizer.param_groups):
            if any(parameter is scale for parameter in group['params']):
                return ScaleOptimizer(single, index)
    return None


def _single_wrappers(wrapper: OptimWrapper) -> Iterator[OptimWrapper]:
    if isinstance(wrapper, OptimWrapperDict):
        for inner in wrapper.values():
            yield from _single_wrappers(inner)
    else:
        yield wrapper


@dataclass(frozen=True)
class Travel:
    """How far the optimizer can move a parameter: the sum of its learning rate over the steps.

    A step of Adam is about as long as the learning rate when its gradients agree, and shorter when
    they do not, so this is the longest way. (Rare gradients after many zeros make longer steps.)

    Attributes:
        until: The way from the start up to and with iteration i, ``(max_iters + 1,)``.
    """

    until: tuple[float, ...]

    @property
    def total(self) -> float:
        """The way of the whole run."""
        return self.until[-1]

    def after(self, iteration: int) -> float:
        """The way that is left after so many iterations."""
        return self.total - self.until[min(iteration, len(self.until) - 1)]


def find_travel(
    scale_optimizer: ScaleOptimizer,
    schedulers: dict | Sequence[_ParamScheduler] | None,
    max_iters: int,
    epoch_length: int,
) -> Travel:
    """Play the learning rate schedule through, as it is after a resume.

    Args:
        scale_optimizer: The optimizer and group of the parameter.
        schedulers: The runner's schedulers: None, a list, or a list for each optimizer.
        max_iters: Iterations of the whole training.
        epoch_length: Iterations of an epoch.

    Returns:
        The way at each iteration.
    """
    lists = schedulers.values() if isinstance(schedulers, dict) else [schedulers or []]
    rates = scheduled_learning_rates(
        scale_optimizer.group_index,
        scale_optimizer.optimizer,
        [scheduler for several in lists for scheduler in several],
        max_iters,
        epoch_length,
    )
    # With accumulated gradients the optimizer steps in every n-th iteration, and in the last one.
    every = scale_optimizer.accumulated
    steps = (
        rate if iteration % every == 0 or iteration == max_iters else 0.0
        for iteration, rate in enumerate(rates, start=1)
    )
    return Travel(tuple(accumulate(steps, initial=0.0)))
