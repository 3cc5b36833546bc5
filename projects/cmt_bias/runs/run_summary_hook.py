"""Hook that says at the start of training what will be trained, and how fast it may learn."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from mmdet3d.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapperDict, _ParamScheduler
from mmengine.runner import Runner
from torch import nn

from ..datasets.nuscenes_dataset import skipped_frames
from ..learning_rate_peaks import (
    LearningRatePeak,
    peak_learning_rates,
    schedules_of,
    training_length,
    unforeseeable,
)
from ..metrics.nuscenes_metric_table import parse_nuscenes_metrics
from ..unwrapping import unwrapped

GAIN_TOLERANCE = 1e-3
"""Relative difference of the groups' gains above which a schedule counts as losing lr_mult."""


@HOOKS.register_module()
class RunSummaryHook(Hook):
    """Logs batch size, learning rates, attention backend and parameters, once.

    After a validation: beside an mAP over classes that the model does not have, the one over those
    that it has. After an epoch: how many bad frames it left out. It ends no run: what cannot be
    found out is said to be unknown.
    """

    # After every other hook: what they freeze or change before training is to be counted.
    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._num_skipped = 0

    def before_train(self, runner: Runner) -> None:
        """Write the summary to the log, of the schedule that will be trained with."""
        show_package_log()
        subjects: dict[str, Callable[[], list[str]]] = {
            'batch': lambda: describe_batch(runner),
            'base learning rate': lambda: describe_base_rate(runner),
            'learning rates': lambda: describe_rates(runner),
            'attention': lambda: describe_attention(runner.model),
            'parameters': lambda: describe_parameters(unwrapped(runner.model)),
        }
        lines = ['This run:']
        for subject, describe in subjects.items():
            try:
                lines += describe()
            except Exception as error:  # to inform must not end a run
                lines.append(f'{subject}: unknown ({type(error).__name__}: {error})')
        MMLogger.get_current_instance().info('\n  '.join(lines))

    def after_train_epoch(self, runner: Runner) -> None:
        """Say how many bad frames have been left out, when there are more than before."""
        skipped = skipped_frames(getattr(runner.train_loop, 'dataloader', None))
        if skipped > self._num_skipped:
            self._num_skipped = skipped
            MMLogger.get_current_instance().warning(
                f'{skipped} bad frames of the training data have been left out so far'
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Say beside an mAP that counts classes which the model lacks what it is without them."""
        for scores in parse_nuscenes_metrics(metrics or {}).values():
            if scores.absent_classes:
                MMLogger.get_current_instance().warning(scores.describe_own_means())


class _ToCurrentLog(logging.Handler):
    """Passes messages on to the log of the run that is going on."""

    def emit(self, record: logging.LogRecord) -> None:
        MMLogger.get_current_instance().log(record.levelno, record.getMessage())


def show_package_log() -> None:
    """Pass on what the torch-only parts log, with Python's logging; once is enough."""
    logger = logging.getLogger('cmt_bias')
    if not any(isinstance(handler, _ToCurrentLog) for handler in logger.handlers):
        logger.addHandler(_ToCurrentLog())
        logger.setLevel(logging.INFO)


def describe_batch(runner: Runner) -> list[str]:
    """Effective batch, and how often it is trained on."""
    batch, accumulated = _batch(runner)
    if batch is None:
        return ['effective batch: unknown, for the batch sampler has no batch_size']
    length = training_length(runner)
    steps = f'{length[1]} iterations an epoch, {length[0]} in all' if length else 'endless epochs'
    return [
        f'effective batch {runner.world_size * batch * accumulated} = {runner.world_size} '
        f'processes x batch {batch} x {accumulated} accumulated steps; {steps}'
    ]


def _batch(runner: Runner) -> tuple[int | None, int]:
    """Samples that one process loads at once, and how often it does so for a step."""
    loader = runner.train_loop.dataloader
    loaded = getattr(loader.batch_sampler, 'batch_size', None) or loader.batch_size
    return loaded, getattr(runner.optim_wrapper, '_accumulative_counts', 1)


def describe_base_rate(runner: Runner) -> list[str]:
    """The config's base rate before and after scaling; nothing where there is none or several."""
    wrapper, (batch, accumulated) = runner.optim_wrapper, _batch(runner)
    # The defaults keep the config's rate; auto_scale_lr and the schedule change the groups.
    defaults = {} if isinstance(wrapper, OptimWrapperDict) else wrapper.optimizer.defaults
    if batch is None or 'lr' not in defaults:
        return []
    batch *= runner.world_size
    return [describe_scaling(defaults['lr'], runner.auto_scale_lr or {}, batch, accumulated)]


def describe_rates(runner: Runner) -> list[str]:
    """The rate of each group at the peak of its schedule, which is played through.

    Logs a warning where a schedule loses ``lr_mult``.
    """
    if isinstance(runner.optim_wrapper, OptimWrapperDict):
        return ['learning rates: unknown, for there are several optimizers']
    length = training_length(runner)
    if length is None:
        return ['learning rates: unknown, for the training loop has no length']
    optimizer = runner.optim_wrapper.optimizer
    schedules = schedules_of(optimizer, runner.param_schedulers or [])
    peaks = peak_learning_rates(unwrapped(runner.model), optimizer, schedules, *length)
    is_scaled = bool((runner.auto_scale_lr or {}).get('enable'))
    for warning in schedule_warnings(peaks, schedules, is_scaled):
        MMLogger.get_current_instance().warning(warning)
    lines = [
        f'learning rate: {kind} depends on what the training gives; without it, it is:'
        for kind in unforeseeable(schedules)
    ]
    lines.append('learning rate of the parameter groups (base -> peak of the schedule):')
    for peak in peaks:
        parts = Counter(name.split('.')[0] for name in peak.parameters)
        owners = ', '.join(f'{part} ({count})' for part, count in parts.most_common())
        lines.append(f'  {peak.base:g} -> {peak.peak:g} (x {peak.gain:g}): {owners}')
    return lines


def describe_scaling(base: float, auto_scale_lr: Mapping, batch: int, accumulated: int) -> str:
    """One line about the config's base learning rate, for a batch of all processes.

    mmengine scales by that; accumulated steps are left out of its ratio.
    """
    effective = batch * accumulated
    base_batch = auto_scale_lr.get('base_batch_size')
    if not base_batch:
        return f'base learning rate {base:g}, not scaled (the config has no auto_scale_lr)'
    line, scaled = f'base learning rate {base:g} for batch {base_batch}', base * batch / base_batch
    if auto_scale_lr.get('enable'):
        return f'{line}, scaled by {batch / base_batch:g} to {scaled:g} (auto_scale_lr)'
    would = f' (this batch of {effective}: --auto-scale-lr would make it {scaled:g})'
    return f'{line}, not scaled' + would * (effective != base_batch)


def schedule_warnings(
    peaks: Sequence[LearningRatePeak], schedules: Iterable[_ParamScheduler], scaled: bool
) -> list[str]:
    """What is wrong with learning rate schedules that have these peaks, each with its remedy.

    ``scaled`` tells whether ``auto_scale_lr`` has scaled the base rates.
    """
    with_minimum = sorted({type(s).__name__ for s in schedules if getattr(s, 'eta_min', None)})
    reason = (
        f' {", ".join(with_minimum)} has an absolute eta_min. Use eta_min_ratio, a factor on the '
        'rate of each group, instead.'
    ) * bool(with_minimum)
    warnings = []
    gains = [peak.gain for peak in peaks if peak.base]
    if gains and max(gains) - min(gains) > GAIN_TOLERANCE * max(gains):
        warnings.append(
            f'The schedule raises the parameter groups by different factors, {min(gains):g} to '
            f'{max(gains):g}: lr_mult does not hold at the peak.{reason}'
        )
    if with_minimum and scaled:
        warnings.append(f'auto_scale_lr has not scaled all of the learning rate.{reason}')
    return warnings


def describe_attention(model: nn.Module) -> list[str]:
    """One line for each kind of module that states its ``attention_backend``.

    Which one attention with a bias runs on is logged when it first runs.
    """
    backends = Counter(
        (type(module).__name__, backend)
        for module in model.modules()
        if isinstance(backend := getattr(module, 'attention_backend', None), str)
    )
    return [
        f'attention: {name} x {count} runs on {backend}'
        for (name, backend), count in sorted(backends.items())
    ]


def describe_parameters(model: nn.Module) -> list[str]:
    """A table of what is trained and what is frozen: each part of the model, and of its heads."""
    parts = {'all': model}
    for name, part in model.named_children():
        parts[name] = part
        if name.endswith('head'):
            parts |= {f'{name}.{inner}': module for inner, module in part.named_children()}
    width = max(map(len, parts))
    lines = [f'{"parameters of":{width + 2}} {"trained":>13} {"frozen":>13}']
    for name, part in parts.items():
        counts = Counter[bool]()
        for parameter in part.parameters():
            counts[parameter.requires_grad] += parameter.numel()
        if counts:
            lines.append(f'  {name:{width}} {counts[True]:13,} {counts[False]:13,}')
    return lines
