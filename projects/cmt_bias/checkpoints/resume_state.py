"""What a training has beside its weights: as plain data in a checkpoint, and whether it fits."""

import random
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import FUNCTIONS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from .safe_loading import CheckpointError

# How far a training is, not how it was set. What differs between groups follows from the groups'.
_PROGRESS = {'last_step', 'verbose', 'base_values', 'params', 'lr'}


def check_resume(runner: Runner, checkpoint: dict, source: str) -> None:
    """Find out whether a training can go on from a checkpoint, beyond its weights.

    mmengine loads the saved state of optimizer and schedulers over what the config made of them;
    what of the config then does not hold is logged. The number of epochs is the config's.

    Raises:
        CheckpointError: If it holds no training, or one with other parameter groups, moments of
            other shapes than the parameters, or another number of schedulers.
    """
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict) or not {'epoch', 'iter'} <= meta.keys():
        raise _refusal(source, 'it holds weights, but no training')
    wrapper, schedulers = runner.optim_wrapper, runner.param_schedulers
    saved, saved_schedulers = checkpoint.get('optimizer'), checkpoint.get('param_schedulers')
    if saved_schedulers and schedulers is not None:
        # mmengine pairs them as far as there are of both.
        own, others = (
            {k: len(v) for k, v in lists.items()} if isinstance(lists, dict) else len(lists)
            for lists in (schedulers, saved_schedulers)
        )
        if own != others:
            fault = f"param_scheduler has {own} schedulers, the checkpoint's had {others}"
            raise _refusal(source, fault)
    # Whether the states of several optimizers fit, or of another kind of wrapper, mmengine finds.
    if not saved or not isinstance(wrapper, OptimWrapper) or isinstance(wrapper, OptimWrapperDict):
        return
    groups, saved_groups = wrapper.optimizer.param_groups, saved.get('param_groups', ())
    if [len(group['params']) for group in groups] != [len(g['params']) for g in saved_groups]:
        raise _refusal(
            source,
            f"the optimizer has {len(groups)} parameter groups, the checkpoint's has "
            f'{len(saved_groups)}, so that optim_wrapper.constructor or '
            'optim_wrapper.paramwise_cfg is not as it was (before equal groups were merged: '
            '--cfg-options optim_wrapper.constructor=DefaultOptimWrapperConstructor)',
        )
    parameters = [parameter for group in groups for parameter in group['params']]
    numbers = [number for group in saved_groups for number in group['params']]
    for parameter, number in zip(parameters, numbers, strict=True):  # as torch pairs them
        state = saved.get('state', {}).get(number, {})
        moment = state.get('exp_avg', state.get('momentum_buffer'))
        if moment is not None and moment.shape != parameter.shape:
            raise _refusal(
                source,
                f'its moment of parameter {number} has the shape {tuple(moment.shape)}, the '
                f'parameter {tuple(parameter.shape)}; the model has them in another order',
            )
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


def _refusal(source: str, fault: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint '{source}' cannot be resumed: {fault}. Remedy: resume with the config that "
        'it was trained with, or start from its weights, with load_from and without resume'
    )


def _settings(groups: Iterable[Mapping], schedulers: Iterable[Mapping]) -> dict[str, Any]:
    """How an optimizer and schedulers with these states were set, by the names to be shown."""
    settings = {}
    for kind, states in (('optimizer.param_groups', groups), ('param_scheduler', schedulers)):
        for index, state in enumerate(states):
            moved = {'momentum', 'betas'} if 'initial_momentum' in state else set()
            for key in sorted(state.keys() - _PROGRESS - moved):
                if not key.startswith('_'):
                    settings[f'{kind}[{index}].{key}'] = state[key]
    return settings


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


def capture_random_state() -> dict[str, Any]:
    """States of the generators of python, numpy and torch (CPU, current GPU), as plain data."""
    version, words, python_gauss = random.getstate()
    names = ('bit_generator', 'key', 'position', 'has_gauss', 'gauss')
    numpy_state: dict[str, Any] = dict(zip(names, np.random.get_state(), strict=True))
    numpy_state['key'] = torch.from_numpy(numpy_state['key'].astype(np.int64))
    state = {
        'python': {'version': version, 'words': torch.tensor(words), 'gauss': python_gauss},
        'numpy': numpy_state,
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the generators that there are to what `capture_random_state` returned."""
    version, words, python_gauss = state['python'].values()
    random.setstate((version, tuple(words.tolist()), python_gauss))
    kind, key, *rest = state['numpy'].values()
    np.random.set_state((kind, key.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def seeded_sampler(dataloader: DataLoader) -> Any:
    """The sampler that shuffles, the dataloader's or its batch sampler's; None without a seed."""
    samplers = (dataloader.sampler, getattr(dataloader.batch_sampler, 'sampler', None))
    return next((sampler for sampler in samplers if hasattr(sampler, 'seed')), None)


def set_sampling_seed(dataloader: DataLoader, sampler_seed: int | None, seed: int) -> None:
    """Give sampler and workers the seeds of the run that is resumed.

    They were built before the checkpoint was read, hence with this process's own seed, which is
    another one where the config sets none.
    """
    sampler, init_function = seeded_sampler(dataloader), dataloader.worker_init_fn
    if sampler is not None and sampler_seed is not None:
        sampler.seed = sampler_seed
    if isinstance(init_function, partial) and 'seed' in init_function.keywords:
        dataloader.worker_init_fn = partial(init_function, seed=seed)


@FUNCTIONS.register_module()
def seed_worker_per_epoch(worker_id: int) -> None:
    """Give every worker of every rank and epoch random numbers of its own.

    mmengine's function seeds the workers alike each time they start, so without persistent ones
    the same augmentations return every epoch. torch seeds them from a number that the training
    process draws per epoch, which an exact resume restores, and from the worker's; the rank is
    added here, because all ranks draw the same number. Set with
    `train_dataloader = dict(worker_init_fn=dict(type='seed_worker_per_epoch'))`.
    """
    entropy = np.random.SeedSequence((torch.initial_seed(), get_rank()))
    seed = int(entropy.generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
