"""The learning rate that each parameter group really reaches, by playing the schedule through.

``lr_mult`` of a group can be lost without a word: a cosine schedule with an absolute ``eta_min``
drives every group to the same rate (mmengine issue 1612). Reading the config does not tell, so the
schedulers themselves are run, on a stand-in for the optimizer that has parameter groups only.
"""

import copy
import logging
import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from mmengine.optim import _ParamScheduler
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.optim import Optimizer

_logger = logging.getLogger(__name__)
_LONGEST = 2_000_000  # iterations that are played through; about 20 seconds


class LearningRatePeak(NamedTuple):
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
    return (max_iters, epoch_length) if max_iters <= _LONGEST else None


def schedules_of(
    optimizer: Optimizer, schedulers: Iterable[_ParamScheduler]
) -> list[_ParamScheduler]:
    """Those that move an optimizer's learning rates, bound to it or its wrapper."""
    return [
        scheduler
        for scheduler in schedulers
        if getattr(scheduler, 'param_name', None) == 'lr'
        and optimizer in (bound := scheduler.optimizer, getattr(bound, 'optimizer', None))
    ]


def unforeseeable(schedules: Iterable[_ParamScheduler]) -> list[str]:
    """Types of those schedules whose steps depend on the training's results."""
    return sorted({type(schedule).__name__ for schedule in schedules if not _is_fixed(schedule)})


def _is_fixed(schedule: _ParamScheduler) -> bool:
    return hasattr(schedule, 'base_values') and not getattr(schedule, 'need_val_args', False)


def play_schedule(
    optimizer: Optimizer,
    schedulers: Iterable[_ParamScheduler],
    max_iters: int,
    epoch_length: int,
    from_start: bool = False,
) -> tuple[np.ndarray, list[int]]:
    """Play a schedule through the ``max_iters`` iterations to come; nothing of it is changed.

    Of the schedulers, in the state that they have, only :func:`schedules_of` the optimizer that
    are not unforeseeable count. ``from_start``: as if nothing had been trained yet, with the
    settings of a resume. Groups with the same rates are played once, so the cost does not depend
    on their number: about a second for 100,000 iterations.

    Returns:
        Rates ``(max_iters, K)`` of the K kinds of parameter groups, and the kind of each group.
    """
    # lr, initial_lr, max_lr, ...
    settings = [
        tuple(pair for pair in sorted(group.items()) if re.fullmatch(r'(\w+_)?lr', pair[0]))
        for group in optimizer.param_groups
    ]
    kinds = list(dict.fromkeys(settings))
    groups = [dict(kind) for kind in kinds]
    if from_start:
        for group in groups:
            group['lr'] = group.get('initial_lr', group['lr'])
    # All that a scheduler touches of an optimizer; without a counter of its steps it warns.
    step = SimpleNamespace(_with_counter=True)
    stand_in = SimpleNamespace(param_groups=groups, step=step, _global_step=0)
    playing = [copy.copy(s) for s in schedules_of(optimizer, schedulers) if _is_fixed(s)]
    for player in playing:
        player.optimizer = stand_in
        player.base_values = [player.base_values[settings.index(kind)] for kind in kinds]
        if from_start:
            player.last_step = player._global_step = -1
            player.step()  # as its constructor ends
    rates = np.empty((max_iters, len(kinds)))
    for iteration in range(max_iters):
        rates[iteration] = [group['lr'] for group in groups]
        for player in list(playing):
            if player.by_epoch and (iteration + 1) % epoch_length:
                continue
            try:
                player.step()
            except Exception as error:  # this only informs; the training will say so itself
                playing.remove(player)
                end = f'{iteration + 1}: {type(player).__name__}: {error}'
                _logger.warning('The schedule will end the training in iteration %s', end)
    return rates, [kinds.index(setting) for setting in settings]


def peak_learning_rates(
    model: nn.Module,
    optimizer: Optimizer,
    schedulers: Iterable[_ParamScheduler],
    max_iters: int,
    epoch_length: int,
) -> list[LearningRatePeak]:
    """The rate of every group of an optimizer (not of its wrapper) at the peak of a training.

    There is an entry for each pair of base and peak rate, in falling order of the peak.
    """
    rates, kinds = play_schedule(optimizer, schedulers, max_iters, epoch_length, from_start=True)
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters: dict[tuple[float, float], list[str]] = {}
    for group, peak in zip(optimizer.param_groups, rates.max(axis=0)[kinds].tolist(), strict=True):
        owners = [names.get(member, 'unnamed') for member in group['params']]
        parameters.setdefault((peak, group.get('initial_lr', group['lr'])), []).extend(owners)
    return [
        LearningRatePeak(base, peak, tuple(parameters[peak, base]))
        for peak, base in sorted(parameters, reverse=True)
    ]
