"""The learning rate that each parameter group really reaches, by playing the schedule through.

``lr_mult`` of a group can be lost without a word: a cosine schedule with an absolute ``eta_min``
drives every group to the same rate (mmengine issue 1612). Reading the config does not tell, so the
schedulers themselves are run, on a stand-in for the optimizer that has parameter groups only.
"""

import copy
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.optim import Optimizer

_logger = logging.getLogger(__name__)
_LONGEST = 2_000_000
"""Iterations that are played through; about 20 seconds."""


@dataclass(frozen=True)
class LearningRatePeak:
    """What one kind of parameter group trains with.

    Attributes:
        base: Learning rate in the optimizer before any schedule.
        peak: Largest learning rate of all training iterations.
        parameters: Names of the parameters.
    """

    base: float
    peak: float
    parameters: tuple[str, ...]

    @property
    def gain(self) -> float:
        """The schedule's largest factor on the base rate (0 where the base rate is 0)."""
        return self.peak / self.base if self.base else 0.0


def training_length(runner: Runner) -> tuple[int, int] | None:
    """Iterations of the whole training, and those after which schedules by epoch go on.

    None where the loop or its data have no length, or one that takes minutes to play through.
    """
    loop = runner.train_loop
    try:
        epoch_length, max_iters = len(loop.dataloader), int(loop.max_iters)
    except (TypeError, AttributeError, NotImplementedError, ValueError):
        return None
    if isinstance(loop, IterBasedTrainLoop):  # it is one epoch
        epoch_length = max_iters
    return (max_iters, epoch_length) if 0 < max_iters <= _LONGEST else None


def unforeseeable(schedulers: Iterable[_ParamScheduler]) -> list[str]:
    """Types of those learning rate schedulers whose steps depend on the training's results.

    All functions of this module leave them out.
    """
    return sorted({type(s).__name__ for s in schedulers if _moves_rates(s) and not _is_fixed(s)})


def _moves_rates(scheduler: _ParamScheduler) -> bool:
    return getattr(scheduler, 'param_name', None) == 'lr'


def _is_fixed(scheduler: _ParamScheduler) -> bool:
    return hasattr(scheduler, 'base_values') and not getattr(scheduler, 'need_val_args', False)


def peak_learning_rates(
    model: nn.Module,
    optimizer: Optimizer | OptimWrapper,
    schedulers: Iterable[_ParamScheduler],
    max_iters: int,
    epoch_length: int,
) -> list[LearningRatePeak]:
    """Play the learning rate schedule through and read every group's rate at its peak.

    To be called before training starts. Groups with the same rates are put together, so the cost
    does not depend on their number: about a second for 100,000 iterations.

    Args:
        model: The model, for the parameters' names.
        optimizer: The optimizer of ``model``'s parameters. It is not changed.
        schedulers: Schedulers bound to ``optimizer``, not yet advanced. They are not changed;
            those of other quantities (momentum) are ignored.
        max_iters: Iterations of the whole training.
        epoch_length: Iterations of an epoch.

    Returns:
        One entry for each distinct pair of base and peak rate, in falling order of the peak.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    # The wrapper's own param_groups end with one that has no parameter, for the log's base_lr.
    groups = (
        optimizer.optimizer.param_groups
        if isinstance(optimizer, OptimWrapper)
        else optimizer.param_groups
    )
    kinds: dict[tuple, list[int]] = {}
    for index, group in enumerate(groups):
        kinds.setdefault(_rate_settings(group), []).append(index)

    stand_in = _stand_in_optimizer([dict(kind) for kind in kinds])
    players = [
        _rebind(scheduler, stand_in, [indices[0] for indices in kinds.values()])
        for scheduler in schedulers
        if _moves_rates(scheduler) and _is_fixed(scheduler)
    ]
    bases = [group.get('initial_lr', group['lr']) for group in stand_in.param_groups]
    peaks = [0.0] * len(bases)
    for rates in _play(players, stand_in.param_groups, max_iters, epoch_length):
        peaks = list(map(max, peaks, rates))

    parameters: dict[tuple[float, float], list[str]] = {}
    for base, peak, indices in zip(bases, peaks, kinds.values(), strict=True):
        for index in indices:
            members = groups[index]['params']
            parameters.setdefault((peak, base), []).extend(
                names.get(id(member), 'unnamed') for member in members
            )
    return [
        LearningRatePeak(base, peak, tuple(parameters[peak, base]))
        for peak, base in sorted(parameters, reverse=True)
    ]


def scheduled_learning_rates(
    group_index: int,
    optimizer: Optimizer,
    schedulers: Iterable[_ParamScheduler],
    max_iters: int,
    epoch_length: int,
) -> list[float]:
    """Play the learning rate schedule through and read one group's rate in every iteration.

    To be called before training starts.

    Args:
        group_index: Which of the optimizer's parameter groups.
        optimizer: The optimizer. It is not changed.
        schedulers: Schedulers, as for :func:`peak_learning_rates`; those of other optimizers are
            ignored.
        max_iters: Iterations of the whole training.
        epoch_length: Iterations of an epoch.

    Returns:
        One learning rate for each iteration.
    """
    stand_in = _stand_in_optimizer([dict(_rate_settings(optimizer.param_groups[group_index]))])
    players = [
        _rebind(scheduler, stand_in, [group_index])
        for scheduler in schedulers
        if _moves_rates(scheduler) and _is_fixed(scheduler) and _schedules(scheduler, optimizer)
    ]
    played = _play(players, stand_in.param_groups, max_iters, epoch_length)
    return [rate for (rate,) in played]


def _schedules(scheduler: _ParamScheduler, optimizer: Optimizer) -> bool:
    """Whether a scheduler, bound to an optimizer or to its wrapper, acts on this optimizer."""
    return optimizer in (scheduler.optimizer, getattr(scheduler.optimizer, 'optimizer', None))


def _rate_settings(group: dict) -> tuple:
    """A group's entries about the learning rate (lr, initial_lr, max_lr, ...), hashable."""
    return tuple(
        (key, value) for key, value in sorted(group.items()) if re.fullmatch(r'(\w+_)?lr', key)
    )


def _stand_in_optimizer(groups: list[dict]) -> SimpleNamespace:
    """What a scheduler touches of an optimizer: groups, a step function and their counter."""

    def step() -> None:
        raise AssertionError('the stand-in optimizer has nothing to step')

    step._with_counter = True  # type: ignore[attr-defined]  # what mmengine marks its own with
    return SimpleNamespace(param_groups=groups, step=step, _global_step=0)


def _rebind(
    scheduler: _ParamScheduler, optimizer: SimpleNamespace, group_indices: list[int]
) -> _ParamScheduler:
    """A copy of a scheduler that acts on ``optimizer``, which has only some of the groups."""
    rebound = copy.copy(scheduler)
    rebound.optimizer = optimizer
    rebound.base_values = [scheduler.base_values[index] for index in group_indices]
    return rebound


def _play(
    schedulers: Sequence[_ParamScheduler], groups: list[dict], max_iters: int, epoch_length: int
) -> Iterator[list[float]]:
    """The learning rates of all groups in each of the training's iterations."""
    playing = list(schedulers)
    for iteration in range(1, max_iters + 1):
        yield [group['lr'] for group in groups]
        for scheduler in list(playing):
            if not scheduler.by_epoch or iteration % epoch_length == 0:
                try:
                    scheduler.step()
                except Exception as error:  # this only informs; the training will say so itself
                    playing.remove(scheduler)
                    _logger.warning(
                        'The schedule will end the training in iteration %d: %s: %s',
                        iteration,
                        type(scheduler).__name__,
                        error,
                    )
