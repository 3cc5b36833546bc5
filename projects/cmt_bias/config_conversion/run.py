"""Optimizer, schedule and hooks of an old config."""

from collections.abc import Mapping
from typing import Any

from mmdet3d.registry import HOOKS

from .report import ConversionReport

_RENAMED = {
    'total_epochs': 'train_cfg.max_epochs',
    'evaluation': 'train_cfg.val_interval',
    'optimizer': 'optim_wrapper.optimizer; its paramwise_cfg: optim_wrapper.paramwise_cfg',
    'log_config': 'default_hooks.logger.interval, visualizer.vis_backends',
    'checkpoint_config': 'default_hooks.checkpoint.interval, max_keep_ckpts',
    'resume_from': 'load_from, with resume=True',
    'dist_params': 'env_cfg.dist_cfg',
}
# Parts of which all is named that is not taken out.
_PARTS = (
    *('runner', 'evaluation', 'checkpoint_config', 'optimizer_config', 'fp16', 'log_config'),
    *('lr_config', 'momentum_config'),
)
_EPOCHS_WITHOUT_PASTING = 5


def convert_run(old: dict, train_pipeline: list[Mapping], report: ConversionReport) -> dict:
    """All of a config but ``model`` and ``data``; takes out of ``old`` what it converts."""
    report.changed.update({key: new for key, new in _RENAMED.items() if old.get(key)})
    parts = {key: dict(old.pop(key, None) or {}) for key in _PARTS}
    runner, log, checkpoint = parts['runner'], parts['log_config'], parts['checkpoint_config']
    runner.pop('type', None)
    max_epochs, max_iters = runner.pop('max_epochs', 1), runner.pop('max_iters', None)
    epochs = old.pop('total_epochs', None) or max_epochs
    if max_iters is not None:
        what = f'max_iters={max_iters}, but trainings count epochs here: set max_epochs'
        report.lost['runner.max_iters'] = f'{what}, intervals and param_scheduler by hand'
    intervals = {}  # epochs between two validations, and two checkpoints
    for key in ('evaluation', 'checkpoint_config'):
        intervals[key] = parts[key].pop('interval', 1)
        if not parts[key].pop('by_epoch', max_iters is None):
            report.lost[f'{key}.interval'] = f'{intervals[key]} iterations; it is once an epoch'
            intervals[key] = 1
    resumed, loaded = old.pop('resume_from', None), old.pop('load_from', None)
    new: dict[str, Any] = dict(
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=intervals['evaluation']),
        optim_wrapper=_optim_wrapper(old.pop('optimizer'), parts, report),
        param_scheduler=[
            *_schedulers('LR', parts['lr_config'], epochs, report),
            *_schedulers('Momentum', parts['momentum_config'], epochs, report),
        ],
        custom_hooks=_custom_hooks(old.pop('custom_hooks', None), train_pipeline, epochs, report),
        load_from=resumed or loaded,
        resume=bool(resumed),
        log_level=old.pop('log_level', 'INFO'),
        find_unused_parameters=bool(old.pop('find_unused_parameters', False)),
        default_hooks=dict(
            logger=dict(interval=log.pop('interval', 50)),
            checkpoint=dict(interval=intervals['checkpoint_config']),
        ),
    )
    if 'max_keep_ckpts' in checkpoint:
        new['default_hooks']['checkpoint'].update(max_keep_ckpts=checkpoint.pop('max_keep_ckpts'))
    if 'dist_params' in old:
        new['env_cfg'] = dict(dist_cfg=dict(old.pop('dist_params')))
    for index, hook in enumerate(log.pop('hooks', ())):
        if hook['type'] == 'TensorboardLoggerHook':
            backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
            new['visualizer'] = dict(vis_backends=backends)
        elif hook['type'] != 'TextLoggerHook':
            report.lost[f'log_config.hooks[{index}]'] = f'{hook["type"]}: add a vis_backend for it'
    for key, rest in parts.items():
        report.lose(key, rest)
    return new


def _optim_wrapper(
    optimizer: Mapping, parts: Mapping[str, dict], report: ConversionReport
) -> dict:
    optimizer, settings, fp16 = dict(optimizer), parts['optimizer_config'], parts['fp16']
    wrapper: dict[str, Any] = dict(type='OptimWrapper')
    if 'Fp16' in settings.pop('type', '') or fp16:
        scale = settings.pop('loss_scale', fp16.pop('loss_scale', 'dynamic'))
        wrapper = dict(type='AmpOptimWrapper', loss_scale=scale, dtype='float16')
        report.changed['optimizer_config.type'] = "optim_wrapper.type='AmpOptimWrapper'"
    if settings.pop('custom_fp16', None) is not None:
        what = 'the parts that stay in float32 are fixed, those of the released recipe'
        report.lost['optimizer_config.custom_fp16'] = what
    if 'paramwise_cfg' in optimizer:
        wrapper['paramwise_cfg'] = optimizer.pop('paramwise_cfg')
    names = dict(grad_clip='clip_grad', cumulative_iters='accumulative_counts')
    for key, renamed in names.items():
        if value := settings.pop(key, None):
            wrapper[renamed] = value
            report.changed[f'optimizer_config.{key}'] = f'optim_wrapper.{renamed}'
    return dict(wrapper, constructor='MergedParamGroupsConstructor', optimizer=optimizer)


def _schedulers(kind: str, config: dict, epochs: int, report: ConversionReport) -> list[dict]:
    if not config:
        return []
    key, policy = f'{kind.lower()}_config', config.pop('policy', None)
    config.pop('by_epoch', None)
    if policy == 'cyclic' and config.get('cyclic_times', 1) == 1:
        config.pop('cyclic_times', None)
        turn = epochs * config.pop('step_ratio_up', 0.4)
        up, down = config.pop('target_ratio', (10, 1e-4))
        new = [_cosine(kind, 0, turn, up), _cosine(kind, turn, epochs, down)]
    elif policy == 'CosineAnnealing':
        least, ratio = config.pop('min_lr', 0.0), config.pop('min_lr_ratio', None)
        new = [_cosine(kind, 0, epochs, ratio)]
        if ratio is None:
            new[0].update(eta_min=least)
    else:
        config.clear()
        report.lost[key] = f'policy {policy!r}: choose a scheduler of mmengine'
        return []
    start, steps = config.pop('warmup_ratio', 0.1), config.pop('warmup_iters', 0)
    warmup, by_epoch = config.pop('warmup', None), config.pop('warmup_by_epoch', False)
    if warmup == 'linear':
        ramp = dict(start_factor=start, begin=0, end=steps, by_epoch=False)
        if by_epoch:
            ramp.update(by_epoch=True, convert_to_iter_based=True)
        new.insert(0, dict(type=f'Linear{kind}', **ramp))
    elif warmup:
        report.lost[f'{key}.warmup'] = f'{warmup!r}: choose a scheduler of mmengine'
    report.changed[key] = f'param_scheduler: {", ".join(step["type"] for step in new)}'
    return new


def _cosine(kind: str, begin: float, end: float, ratio: float | None) -> dict:
    steps = dict(
        begin=begin, end=end, T_max=end - begin, by_epoch=True, convert_to_iter_based=True
    )
    return dict(type=f'CosineAnnealing{kind}', eta_min_ratio=ratio, **steps)


def _custom_hooks(
    old: list[Mapping] | None,
    train_pipeline: list[Mapping],
    epochs: int,
    report: ConversionReport,
) -> list[dict]:
    hooks = []
    for index, hook in enumerate(old or ()):
        if HOOKS.get(hook['type']) is not None:
            hooks.append(dict(hook))
            continue
        what = f'no hook {hook["type"]} here; left out'
        if 'Freeze' in hook['type']:
            what += ": name what is not trained in the detector's frozen_modules"
        report.lost[f'custom_hooks[{index}]'] = what
    epoch = epochs - _EPOCHS_WITHOUT_PASTING
    if epoch > 0 and any('db_sampler' in step for step in train_pipeline):
        hooks.append(dict(type='PastingSwitchOffHook', epoch=epoch))
        what = 'the released models were trained without pasting for the last 5 epochs, by hand'
        report.added['custom_hooks: PastingSwitchOffHook'] = what
    return hooks
