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
# What is converted of a key's settings.
_KNOWN = dict(
    runner=('type', 'max_epochs', 'max_iters'),
    evaluation=('interval', 'by_epoch'),
    checkpoint_config=('interval', 'by_epoch', 'max_keep_ckpts'),
    optimizer_config=('type', 'loss_scale', 'grad_clip', 'custom_fp16', 'cumulative_iters'),
    fp16=('loss_scale',),
    log_config=('interval', 'hooks'),
)
HANDLED_RUN_KEYS = (
    *(*_RENAMED, *_KNOWN, 'lr_config', 'momentum_config', 'log_level', 'load_from'),
    *('custom_hooks', 'find_unused_parameters'),
)
_KNOWN_OF_WARMUP = ('warmup', 'warmup_iters', 'warmup_ratio', 'warmup_by_epoch')
_KNOWN_OF_POLICY = dict(
    cyclic=('target_ratio', 'cyclic_times', 'step_ratio_up'),
    CosineAnnealing=('min_lr', 'min_lr_ratio'),
)
_EPOCHS_WITHOUT_PASTING = 5


def convert_run(old: Mapping, train_pipeline: list[Mapping], report: ConversionReport) -> dict:
    """All of a config but ``model`` and ``data``."""
    parts = {key: old.get(key) or {} for key in _KNOWN}
    for key, known in _KNOWN.items():
        report.lose_others(key, parts[key], known)
    report.changed.update({key: new for key, new in _RENAMED.items() if old.get(key)})
    runner, log, checkpoint = parts['runner'], parts['log_config'], parts['checkpoint_config']
    epochs = old.get('total_epochs') or runner.get('max_epochs', 1)
    if 'max_iters' in runner:
        what = f'max_iters={runner["max_iters"]}, but trainings count epochs here: set max_epochs'
        report.lost['runner.max_iters'] = f'{what}, intervals and param_scheduler by hand'
    # Epochs between two validations, and two checkpoints.
    intervals = {key: parts[key].get('interval', 1) for key in ('evaluation', 'checkpoint_config')}
    for key, interval in intervals.items():
        if not parts[key].get('by_epoch', 'max_iters' not in runner):
            report.lost[f'{key}.interval'] = f'{interval} iterations; it is once an epoch'
            intervals[key] = 1
    new: dict[str, Any] = dict(
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=intervals['evaluation']),
        optim_wrapper=_optim_wrapper(old['optimizer'], parts, report),
        param_scheduler=[
            *_schedulers('LR', old.get('lr_config'), epochs, report),
            *_schedulers('Momentum', old.get('momentum_config'), epochs, report),
        ],
        custom_hooks=_custom_hooks(old, train_pipeline, epochs, report),
        load_from=old.get('resume_from') or old.get('load_from'),
        resume=bool(old.get('resume_from')),
        log_level=old.get('log_level', 'INFO'),
        find_unused_parameters=bool(old.get('find_unused_parameters')),
        default_hooks=dict(
            logger=dict(interval=log.get('interval', 50)),
            checkpoint=dict(interval=intervals['checkpoint_config']),
        ),
    )
    if 'max_keep_ckpts' in checkpoint:
        new['default_hooks']['checkpoint'].update(max_keep_ckpts=checkpoint['max_keep_ckpts'])
    if 'dist_params' in old:
        new['env_cfg'] = dict(dist_cfg=dict(old['dist_params']))
    for index, hook in enumerate(log.get('hooks', ())):
        if hook['type'] == 'TensorboardLoggerHook':
            backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
            new['visualizer'] = dict(vis_backends=backends)
        elif hook['type'] != 'TextLoggerHook':
            report.lost[f'log_config.hooks[{index}]'] = f'{hook["type"]}: add a vis_backend for it'
    return new


def _optim_wrapper(
    optimizer: Mapping, parts: Mapping[str, Mapping], report: ConversionReport
) -> dict:
    optimizer, settings, fp16 = dict(optimizer), parts['optimizer_config'], parts['fp16']
    wrapper: dict[str, Any] = dict(type='OptimWrapper')
    if 'Fp16' in settings.get('type', '') or fp16:
        scale = settings.get('loss_scale', fp16.get('loss_scale', 'dynamic'))
        wrapper = dict(type='AmpOptimWrapper', loss_scale=scale, dtype='float16')
        report.changed['optimizer_config.type'] = "optim_wrapper.type='AmpOptimWrapper'"
    if 'custom_fp16' in settings:
        what = 'the parts that stay in float32 are fixed, those of the released recipe'
        report.lost['optimizer_config.custom_fp16'] = what
    if 'paramwise_cfg' in optimizer:
        wrapper['paramwise_cfg'] = optimizer.pop('paramwise_cfg')
    names = dict(grad_clip='clip_grad', cumulative_iters='accumulative_counts')
    for key, renamed in names.items():
        if settings.get(key):
            wrapper[renamed] = settings[key]
            report.changed[f'optimizer_config.{key}'] = f'optim_wrapper.{renamed}'
    return dict(wrapper, constructor='MergedParamGroupsConstructor', optimizer=optimizer)


def _schedulers(
    kind: str, config: Mapping | None, epochs: int, report: ConversionReport
) -> list[dict]:
    if not config:
        return []
    key, policy = f'{kind.lower()}_config', config.get('policy')
    if policy == 'cyclic' and config.get('cyclic_times', 1) == 1:
        turn = epochs * config.get('step_ratio_up', 0.4)
        up, down = config.get('target_ratio', (10, 1e-4))
        new = [_cosine(kind, 0, turn, up), _cosine(kind, turn, epochs, down)]
    elif policy == 'CosineAnnealing':
        new = [_cosine(kind, 0, epochs, config.get('min_lr_ratio'))]
        if 'min_lr_ratio' not in config:
            new[0].update(eta_min=config.get('min_lr', 0.0))
    else:
        report.lost[key] = f'policy {policy!r}: choose a scheduler of mmengine'
        return []
    if config.get('warmup') == 'linear':
        start, steps = config.get('warmup_ratio', 0.1), config.get('warmup_iters', 0)
        ramp = dict(start_factor=start, begin=0, end=steps, by_epoch=False)
        if config.get('warmup_by_epoch'):
            ramp.update(by_epoch=True, convert_to_iter_based=True)
        new.insert(0, dict(type=f'Linear{kind}', **ramp))
    elif config.get('warmup'):
        report.lost[f'{key}.warmup'] = f'{config["warmup"]!r}: choose a scheduler of mmengine'
    known = ('policy', 'by_epoch', *_KNOWN_OF_POLICY[policy], *_KNOWN_OF_WARMUP)
    report.lose_others(key, config, known)
    report.changed[key] = f'param_scheduler: {", ".join(step["type"] for step in new)}'
    return new


def _cosine(kind: str, begin: float, end: float, ratio: float | None) -> dict:
    steps = dict(
        begin=begin, end=end, T_max=end - begin, by_epoch=True, convert_to_iter_based=True
    )
    return dict(type=f'CosineAnnealing{kind}', eta_min_ratio=ratio, **steps)


def _custom_hooks(
    old: Mapping, train_pipeline: list[Mapping], epochs: int, report: ConversionReport
) -> list[dict]:
    hooks = []
    for index, hook in enumerate(old.get('custom_hooks') or ()):
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
