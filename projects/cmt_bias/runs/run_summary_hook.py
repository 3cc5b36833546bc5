"""Hook that says at the start of training what will be trained, and how fast it may learn."""

from collections import Counter
from collections.abc import Sequence

from mmdet3d.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict, _ParamScheduler
from mmengine.runner import Runner
from torch import nn

from ..learning_rate_peaks import LearningRatePeak, peak_learning_rates
from ..package_log import show_package_log
from ..unwrapping import unwrapped
from .resumed_schedule import Settings, resume_warnings, schedule_settings

GAIN_TOLERANCE = 1e-3
"""Relative difference of the groups' gains above which a schedule counts as losing lr_mult."""


@HOOKS.register_module()
class RunSummaryHook(Hook):
    """Logs batch size, learning rates, parameters, attention backend and precision, once.

    - The effective batch: processes x batch x accumulated steps; the base learning rate before
      and after ``auto_scale_lr``.
    - Every parameter group's learning rate at the peak of its schedule, found by playing the
      schedule through, with a warning where a schedule loses ``lr_mult``.
    - Trained and frozen parameters of each part of the model and of its heads, after all freezing.
    - The attention backend of modules that state one as ``attention_backend``; which one attention
      with a bias runs on is logged when it first runs.

    Training with several optimizers (``OptimWrapperDict``) gets no learning rates.
    """

    # After every other hook: what they freeze or change before training is to be counted.
    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._configured: Settings = {}

    def before_run(self, runner: Runner) -> None:
        """Remember the schedule of the config; a resume puts the saved one in its place."""
        self._configured = schedule_settings(runner.optim_wrapper, runner.param_schedulers)

    def before_train(self, runner: Runner) -> None:
        """Write the summary to the log, of the schedule that will be trained with."""
        show_package_log()
        logger = MMLogger.get_current_instance()
        in_effect = schedule_settings(runner.optim_wrapper, runner.param_schedulers)
        warnings = resume_warnings(self._configured, in_effect)
        lines = describe_batch(runner)
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapperDict):
            schedulers = runner.param_schedulers or []
            peaks = peak_learning_rates(
                unwrapped(runner.model),
                wrapper,
                schedulers,
                max_iters=runner.max_iters,
                epoch_length=len(runner.train_dataloader),
            )
            lines += describe_peaks(peaks)
            scaled = bool((runner.auto_scale_lr or {}).get('enable'))
            warnings += schedule_warnings(peaks, schedulers, scaled)
        lines += describe_precision(wrapper)
        lines += describe_attention(runner.model)
        lines += describe_parameters(unwrapped(runner.model))
        logger.info('\n  '.join(['This run:', *lines]))
        for warning in warnings:
            logger.warning(warning)


def describe_batch(runner: Runner) -> list[str]:
    """Effective batch and base learning rate, before and after automatic scaling."""
    wrapper = runner.optim_wrapper
    accumulated = getattr(wrapper, '_accumulative_counts', 1)
    batch = runner.train_dataloader.batch_size
    effective = runner.world_size * batch * accumulated
    lines = [
        f'effective batch {effective} = {runner.world_size} processes x batch {batch} x '
        f'{accumulated} accumulated steps; {len(runner.train_dataloader)} iterations an epoch, '
        f'{runner.max_iters} in all'
    ]
    if not isinstance(wrapper, OptimWrapperDict):
        # Its defaults keep the config's rate; auto_scale_lr and the schedule change the groups.
        base = wrapper.optimizer.defaults['lr']
        lines.append(describe_scaling(base, runner.auto_scale_lr, effective, accumulated))
    return lines


def describe_scaling(
    base: float, auto_scale_lr: dict | None, effective: int, accumulated: int
) -> str:
    """One line about the base learning rate.

    mmengine scales by processes x batch alone; accumulated steps are left out of its ratio.

    Args:
        base: Learning rate in the config.
        auto_scale_lr: The config's ``auto_scale_lr``.
        effective: Effective batch, accumulated steps included.
        accumulated: Accumulated steps.

    Returns:
        The line for the log.
    """
    base_batch = (auto_scale_lr or {}).get('base_batch_size')
    if not base_batch:
        return f'base learning rate {base:g}, not scaled (the config has no auto_scale_lr)'
    ratio = effective / accumulated / base_batch
    if (auto_scale_lr or {}).get('enable'):
        return (
            f'base learning rate {base:g} for batch {base_batch}, scaled by {ratio:g} to '
            f'{base * ratio:g} (auto_scale_lr)'
        )
    line = f'base learning rate {base:g} for batch {base_batch}, not scaled'
    if effective != base_batch:
        line += f' (this batch of {effective}: --auto-scale-lr would make it {base * ratio:g})'
    return line


def describe_peaks(peaks: Sequence[LearningRatePeak]) -> list[str]:
    """One line for each kind of parameter group: its rates and whose they are."""
    lines = ['learning rate of the parameter groups (base -> peak of the schedule):']
    for peak in peaks:
        parts = Counter(name.split('.')[0] for name in peak.parameters)
        owners = ', '.join(f'{part} ({count})' for part, count in parts.most_common())
        lines.append(f'  {peak.base:g} -> {peak.peak:g} (x {peak.gain:g}): {owners}')
    return lines


def schedule_warnings(
    peaks: Sequence[LearningRatePeak], schedulers: Sequence[_ParamScheduler], scaled: bool
) -> list[str]:
    """What is wrong with the schedule, each with its remedy.

    Args:
        peaks: Peak rates of all groups.
        schedulers: The schedulers, for those with an absolute ``eta_min``.
        scaled: Whether ``auto_scale_lr`` has scaled the base rates.

    Returns:
        The warnings; empty where all is well.
    """
    absolute = sorted(
        {
            type(scheduler).__name__
            for scheduler in schedulers
            if scheduler.param_name == 'lr' and getattr(scheduler, 'eta_min', None)
        }
    )
    remedy = 'Use eta_min_ratio, a factor on the rate of each group, instead of eta_min.'
    warnings = []
    gains = [peak.gain for peak in peaks if peak.base]
    if gains and max(gains) - min(gains) > GAIN_TOLERANCE * max(gains):
        warnings.append(
            f'The schedule raises the parameter groups by different factors, {min(gains):g} to '
            f'{max(gains):g}: lr_mult does not hold at the peak. '
            + (f'{", ".join(absolute)} has an absolute eta_min. {remedy}' if absolute else '')
        )
    if absolute and scaled:
        warnings.append(
            f'auto_scale_lr has scaled the base learning rate, but not the absolute eta_min of '
            f'{", ".join(absolute)}. {remedy}'
        )
    return [warning.strip() for warning in warnings]


def describe_precision(optim_wrapper: OptimWrapper) -> list[str]:
    """One line about mixed precision."""
    if not isinstance(optim_wrapper, AmpOptimWrapper):
        return ['precision: float32 (no AMP)']
    dtype = optim_wrapper.cast_dtype
    name = "the device's default (float16 on CUDA)" if dtype is None else str(dtype)
    scaler = optim_wrapper.loss_scaler
    return [f'precision: AMP, autocast to {name}, initial loss scale {scaler.get_scale():g}']


def describe_attention(model: nn.Module) -> list[str]:
    """One line for each kind of module that states its ``attention_backend``."""
    backends = Counter(
        (type(module).__name__, module.attention_backend)
        for module in model.modules()
        if isinstance(getattr(module, 'attention_backend', None), str)
    )
    return [
        f'attention: {name} x {count} runs on {backend}'
        for (name, backend), count in sorted(backends.items())
    ]


def describe_parameters(model: nn.Module) -> list[str]:
    """A table of what is trained and what is frozen: each part of the model, and of its heads."""
    parts = [('', model)]
    for name, part in model.named_children():
        parts.append((name, part))
        if name.endswith('head'):
            parts += [(f'{name}.{inner}', module) for inner, module in part.named_children()]
    rows = [(name or 'all', *count_parameters(part)) for name, part in parts]
    rows = [row for row in rows if row[1] or row[2]]
    width = max([len(name) for name, _, _ in rows], default=0)
    return [f'{"parameters of":{width + 2}} {"trained":>13} {"frozen":>13}'] + [
        f'  {name:{width}} {trained:13,} {frozen:13,}' for name, trained, frozen in rows
    ]


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """How many numbers of a module are trained, and how many are frozen."""
    counts = {True: 0, False: 0}
    for parameter in module.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return counts[True], counts[False]
