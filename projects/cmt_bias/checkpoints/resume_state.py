"""What a training has beside its weights: as plain data in a checkpoint, and whether it fits."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from .safe_loading import CheckpointError

# How far a training is, not how it was set. What differs between groups follows from the groups'.
_PROGRESS = {'last_step', 'verbose', 'base_values', 'params', 'lr'}


def check_resume(runner: Runner, checkpoint: dict, source: str) -> None:
    """Find out whether a training can go on from a checkpoint, beyond its weights.

    mmengine loads the saved state of optimizer and schedulers over what the config made of them;
    what of the config then does not hold is logged. The number of epochs is the config's.

    Raises:
        CheckpointError: If it holds no training, or one with other parameter groups, moments of
            other shapes than the parameters, or another number of schedulers: mmengine pairs those
            as far as there are of both.
    """
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict) or not {'epoch', 'iter'} <= meta.keys():
        raise CheckpointError(
            f"checkpoint '{source}' holds weights, but no training that could be resumed. "
            'Remedy: start from its weights, with load_from and without resume'
        )
    wrapper, schedulers = runner.optim_wrapper, runner.param_schedulers
    saved, saved_schedulers = checkpoint.get('optimizer'), checkpoint.get('param_schedulers')
    if saved_schedulers and schedulers is not None:
        own, others = (
            {k: len(v) for k, v in lists.items()} if isinstance(lists, dict) else len(lists)
            for lists in (schedulers, saved_schedulers)
        )
        if own != others:
            raise CheckpointError(
                f'The run cannot be resumed: param_scheduler has {own} schedulers, the '
                f"checkpoint's had {others}. Remedy: resume with the param_scheduler that the "
                'checkpoint was trained with, or start from its weights, with load_from and '
                'without resume'
            )
    # Whether the states of several optimizers fit, or of another kind of wrapper, mmengine finds.
    if not saved or not isinstance(wrapper, OptimWrapper) or isinstance(wrapper, OptimWrapperDict):
        return
    groups, saved_groups = wrapper.optimizer.param_groups, saved.get('param_groups', ())
    if [len(group['params']) for group in groups] != [len(g['params']) for g in saved_groups]:
        raise CheckpointError(
            f'The run cannot be resumed: its optimizer has {len(groups)} parameter groups, '
            f"the checkpoint's has {len(saved_groups)}. optim_wrapper.constructor or "
            'optim_wrapper.paramwise_cfg is not as it was. To resume a run from before equal '
            'groups were merged: '
            '--cfg-options optim_wrapper.constructor=DefaultOptimWrapperConstructor'
        )
    _check_moments(groups, saved_groups, saved.get('state', {}))
    configured = _settings(groups, [scheduler.state_dict() for scheduler in schedulers or ()])
    different = [
        f'\n  {name}: {configured.get(name, "not set")} in the config, {value} in the checkpoint'
        for name, value in _settings(saved_groups, saved_schedulers or ()).items()
        if configured.get(name, 'not set') != value
    ]
    if different:
        MMLogger.get_current_instance().warning(
            'The training goes on with the schedule of its checkpoint, not with that of the '
            f'config; what the checkpoint says holds:{"".join(different)}\nTo train with the '
            'schedule of the config, start from the weights instead: load_from=CHECKPOINT without '
            'resume, in another work_dir.'
        )


def _check_moments(
    groups: Sequence[Mapping], saved_groups: Sequence[Mapping], states: Mapping
) -> None:
    """Refuse moments in another order than the parameters, to which torch pairs them."""
    parameters = [parameter for group in groups for parameter in group['params']]
    numbers = [number for group in saved_groups for number in group['params']]
    for parameter, number in zip(parameters, numbers, strict=True):
        for name in ('exp_avg', 'momentum_buffer'):
            moment = states.get(number, {}).get(name)
            if moment is not None and moment.shape != parameter.shape:
                raise CheckpointError(
                    f"The run cannot be resumed: the checkpoint's {name} of parameter {number} "
                    f'has the shape {tuple(moment.shape)}, the parameter '
                    f'{tuple(parameter.shape)}. The model has its parameters in another order. '
                    'Remedy: resume with the config that the training was started with'
                )


def _settings(groups: Iterable[Mapping], schedulers: Iterable[Mapping]) -> dict[str, Any]:
    """How an optimizer and schedulers with these states were set, by the names to be shown."""
    settings = {}
    for kind, states in (('param_scheduler', schedulers), ('optimizer.param_groups', groups)):
        for index, state in enumerate(states):
            moved = {'momentum', 'betas'} if 'initial_momentum' in state else set()
            for key in state.keys() - _PROGRESS - moved:
                if not key.startswith('_'):
                    settings[f'{kind}[{index}].{key}'] = state[key]
    return dict(sorted(settings.items()))


def plain_hub(hub: dict[str, Any]) -> dict[str, Any]:
    """The state of mmengine's message hub without objects of its own."""
    histories = {}
    for name, history in hub['log_scalars'].items():
        values, counts = (torch.from_numpy(np.asarray(data, np.float64)) for data in history.data)
        histories[name] = dict(values=values, counts=counts, max_length=history.max_length)
    info = without_numpy(hub['runtime_info'])
    return dict(hub, log_scalars={}, log_histories=histories, runtime_info=info)


def without_numpy(value: Any) -> Any:
    """The same with Python's own numbers, texts and lists, keys of dicts included."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {without_numpy(key): without_numpy(part) for key, part in value.items()}
    return type(value)(map(without_numpy, value)) if type(value) in (list, tuple) else value


def hub_for_mmengine(saved: Any) -> dict[str, Any]:
    """What mmengine's message hub loads: of a file without our histories, no histories."""
    hub = saved if isinstance(saved, dict) else {}
    histories = {}
    for name, history in hub.get('log_histories', {}).items():
        values, counts = (history[entry].cpu().numpy() for entry in ('values', 'counts'))
        histories[name] = HistoryBuffer(values, counts, history['max_length'])
    info = dict(hub.get('runtime_info') or {})
    # Keys of everything that was ever logged; mmengine warns of each that has no value.
    keys = hub.get('resumed_keys') or {}
    resumed = {key: keys[key] for key in keys if key in histories or key in info}
    return dict(log_scalars=histories, runtime_info=info, resumed_keys=resumed)
