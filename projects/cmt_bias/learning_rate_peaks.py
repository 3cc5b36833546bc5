"""The learning rate that each parameter group really reaches, by playing the schedule through.

``lr_mult`` of a group can be lost without a word: a cosine schedule with an absolute ``eta_min``
drives every group to the same rate (mmengine issue 1612). Reading the config does not tell, so the
schedulers themselves are run, on a stand-in for the optimizer that has parameter groups only.
"""

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn
from torch.optim import Optimizer


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


def build_schedulers(
    configs: dict | Sequence[dict], optimizer: Optimizer, epoch_length: int, max_epochs: int
) -> list[_ParamScheduler]:
    """Build ``param_scheduler`` of a config as mmengine's runner does in epoch-based training.

    Args:
        configs: One scheduler's config or several.
        optimizer: The optimizer whose groups are scheduled.
        epoch_length: Iterations of an epoch.
        max_epochs: Epochs of the whole training.

    Returns:
        The schedulers, bound to ``optimizer``.
    """
    schedulers = []
    for config in [configs] if isinstance(configs, dict) else configs:
        config = copy.deepcopy(dict(config))
        by_epoch = config.get('by_epoch', True)
        config.setdefault('end', max_epochs if by_epoch else max_epochs * epoch_length)
        schedulers.append(
            PARAM_SCHEDULERS.build(
                config, default_args=dict(optimizer=optimizer, epoch_length=epoch_length)
            )
        )
    return schedulers


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
    same rates are put together, so the cost does not depend on their number: about a second for
    100,000 iterations.

    Args:
        model: The model, for the parameters' names.
        optimizer: The optimizer of ``model``'s parameters. It is not changed.
        schedulers: Schedulers bound to ``optimizer``, advanced or not. They are not changed;
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
    bases = [group['lr'] for group in stand_in.param_groups]
    players = [
        _rebind(scheduler, stand_in, [indices[0] for indices in kinds.values()])
        for scheduler in schedulers
        if scheduler.param_name == 'lr'
    ]
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

    As :func:`peak_learning_rates`, from its start also in a training that has been resumed.

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
        if scheduler.param_name == 'lr' and _schedules(scheduler, optimizer)
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
    """What a scheduler touches of an optimizer: groups, a step function and their counter.

    The groups have the rates with which the schedule begins.
    """
    for group in groups:
        group['lr'] = group.get('initial_lr', group['lr'])

    def step() -> None:
        raise AssertionError('the stand-in optimizer has nothing to step')

    step._with_counter = True  # type: ignore[attr-defined]  # what mmengine marks its own with
    return SimpleNamespace(param_groups=groups, step=step, _global_step=0)


def _rebind(
    scheduler: _ParamScheduler, optimizer: SimpleNamespace, group_indices: list[int]
) -> _ParamScheduler:
    """A copy of a scheduler at its start on ``optimizer``, which has only some of the groups."""
    rebound = copy.copy(scheduler)
    rebound.optimizer = optimizer
    rebound.base_values = [scheduler.base_values[index] for index in group_indices]
    rebound.last_step = rebound._global_step = -1
    rebound.step()  # as its constructor ends
    return rebound


def _play(
    schedulers: Sequence[_ParamScheduler], groups: list[dict], max_iters: int, epoch_length: int
) -> Iterator[list[float]]:
    """The learning rates of all groups in each of the training's iterations."""
    for iteration in range(1, max_iters + 1):
        yield [group['lr'] for group in groups]
        for scheduler in schedulers:
            if not scheduler.by_epoch or iteration % epoch_length == 0:
                scheduler.step()
