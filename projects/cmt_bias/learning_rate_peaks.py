"""The learning rate that each parameter group really reaches, by playing the schedule through.

``lr_mult`` of a group can be lost without a word: a cosine schedule with an absolute ``eta_min``
drives every group to the same rate (mmengine issue 1612). Reading the config does not tell, so the
schedulers themselves are run, on a stand-in for the optimizer that has parameter groups only.
"""

import copy
import logging
import re
from collections.abc import Iterable, Iterator
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
    """Learning rate of some parameters before any schedule, and the largest of the training."""

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
    """Types of those learning rate schedulers whose steps depend on the training's results."""
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

    It is played from its start also in a training that has been resumed, as its schedulers and
    the optimizer's groups are then: with the settings that the checkpoint brought. Groups with the
    same rates are played once, so the cost does not depend on their number: about a second for
    100,000 iterations.

    Args:
        model: The model, for the parameters' names.
        optimizer: The optimizer of ``model``'s parameters. It is not changed.
        schedulers: Schedulers bound to ``optimizer``, advanced or not. They are not changed;
            those of other quantities (momentum) and unforeseeable ones are ignored.
        max_iters: Iterations of the whole training.
        epoch_length: Iterations of an epoch.

    Returns:
        One entry for each distinct pair of base and peak rate, in falling order of the peak.
    """
    # The wrapper's own param_groups end with one that has no parameter, for the log's base_lr.
    inner = optimizer.optimizer if isinstance(optimizer, OptimWrapper) else optimizer
    kinds: dict[tuple, list[int]] = {}
    for index, group in enumerate(inner.param_groups):
        kinds.setdefault(_rate_settings(group), []).append(index)
    started = [dict(kind, lr=dict(kind).get('initial_lr', dict(kind)['lr'])) for kind in kinds]
    bases, peaks = [group['lr'] for group in started], [0.0] * len(started)
    firsts = [indices[0] for indices in kinds.values()]
    for rates in _play(schedulers, started, firsts, max_iters, epoch_length, from_start=True):
        peaks = list(map(max, peaks, rates))

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters: dict[tuple[float, float], list[str]] = {}
    for base, peak, indices in zip(bases, peaks, kinds.values(), strict=True):
        parameters.setdefault((peak, base), []).extend(
            names.get(id(member), 'unnamed')
            for index in indices
            for member in inner.param_groups[index]['params']
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
) -> list[float] | None:
    """Play the learning rate schedule on and read one group's rate in every iteration to come.

    Args:
        group_index: Which of the optimizer's parameter groups.
        optimizer: The optimizer, in the state that it has now. It is not changed.
        schedulers: Schedulers in the state that they have now, bound to an optimizer or its
            wrapper; those of other optimizers are ignored. They are not changed.
        max_iters: Iterations to come.
        epoch_length: Iterations of an epoch.

    Returns:
        One learning rate for each iteration; None if a scheduler is unforeseeable.
    """
    own = []
    for scheduler in schedulers:
        bound = getattr(scheduler, 'optimizer', None)
        if optimizer in (bound, getattr(bound, 'optimizer', None)):
            own.append(scheduler)
    if unforeseeable(own):
        return None
    group = dict(_rate_settings(optimizer.param_groups[group_index]))
    played = _play(own, [group], [group_index], max_iters, epoch_length, from_start=False)
    return [rate for (rate,) in played]


def _rate_settings(group: dict) -> tuple:
    """A group's entries about the learning rate (lr, initial_lr, max_lr, ...), hashable."""
    return tuple(
        (key, value) for key, value in sorted(group.items()) if re.fullmatch(r'(\w+_)?lr', key)
    )


def _no_step() -> None:
    """The step of an optimizer that has nothing to step."""


_no_step._with_counter = True  # type: ignore[attr-defined]  # what mmengine marks its own with


def _play(
    schedulers: Iterable[_ParamScheduler],
    groups: list[dict],
    indices: list[int],
    max_iters: int,
    epoch_length: int,
    from_start: bool,
) -> Iterator[list[float]]:
    """The learning rates in each iteration of copies of their optimizer's groups `indices`."""
    # All that a scheduler touches of an optimizer.
    optimizer = SimpleNamespace(param_groups=groups, step=_no_step, _global_step=0)
    playing = [copy.copy(s) for s in schedulers if _moves_rates(s) and _is_fixed(s)]
    for player in playing:
        player.optimizer = optimizer
        player.base_values = [player.base_values[index] for index in indices]
        if from_start:
            player.last_step = player._global_step = -1
            player.step()  # as its constructor ends
    for iteration in range(1, max_iters + 1):
        yield [group['lr'] for group in groups]
        for player in list(playing):
            if player.by_epoch and iteration % epoch_length:
                continue
            try:
                player.step()
            except Exception as error:  # this only informs; the training will say so itself
                playing.remove(player)
                _logger.warning(
                    'The schedule will end the training in iteration %d: %s: %s',
                    iteration,
                    type(player).__name__,
                    error,
                )
