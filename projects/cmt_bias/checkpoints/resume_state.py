"""What a training has beside its weights: as plain data in a checkpoint, and whether it fits."""

from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from .safe_loading import CheckpointError


def check_resume(runner: Runner, checkpoint: dict, source: str) -> None:
    """Find out whether a training can go on from a checkpoint, beyond its weights.

    Raises:
        CheckpointError: If it holds no training, or one with other parameter groups or another
            number of schedulers: mmengine pairs those as far as there are of both.
    """
    meta = checkpoint.get('meta')
    if not isinstance(meta, dict) or not {'epoch', 'iter'} <= meta.keys():
        raise CheckpointError(
            f"checkpoint '{source}' holds weights, but no training that could be resumed. "
            'Remedy: start from its weights, with load_from and without resume'
        )
    saved, wrapper = checkpoint.get('optimizer'), runner.optim_wrapper
    if saved and isinstance(wrapper, OptimWrapper):
        groups, saved_groups = wrapper.optimizer.param_groups, saved['param_groups']
        if [len(group['params']) for group in groups] != [len(g['params']) for g in saved_groups]:
            raise CheckpointError(
                f'The run cannot be resumed: its optimizer has {len(groups)} parameter groups, '
                f"the checkpoint's has {len(saved_groups)}. optim_wrapper.constructor or "
                'optim_wrapper.paramwise_cfg is not as it was. To resume a run from before equal '
                'groups were merged: '
                '--cfg-options optim_wrapper.constructor=DefaultOptimWrapperConstructor'
            )
    saved = checkpoint.get('param_schedulers')
    if saved and runner.param_schedulers is not None:
        own, others = (
            {k: len(v) for k, v in lists.items()} if isinstance(lists, dict) else len(lists)
            for lists in (runner.param_schedulers, saved)
        )
        if own != others:
            raise CheckpointError(
                f'The run cannot be resumed: param_scheduler has {own} schedulers, the '
                f"checkpoint's had {others}. Remedy: resume with the param_scheduler that the "
                'checkpoint was trained with, or start from its weights, with load_from and '
                'without resume'
            )


def plain_hub(hub: dict[str, Any]) -> dict[str, Any]:
    """The state of mmengine's message hub without objects of its own."""
    histories = {
        name: {
            'values': torch.from_numpy(np.asarray(history.data[0], np.float64)),
            'counts': torch.from_numpy(np.asarray(history.data[1], np.float64)),
            'max_length': history.max_length,
        }
        for name, history in hub['log_scalars'].items()
    }
    info = {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in hub['runtime_info'].items()
    }
    resumed = hub['resumed_keys']
    return dict(log_scalars={}, log_histories=histories, runtime_info=info, resumed_keys=resumed)


def hub_for_mmengine(saved: Any) -> dict[str, Any]:
    """What mmengine's message hub loads: of a file without our histories, no histories."""
    hub = saved if isinstance(saved, dict) else {}
    histories = {
        name: HistoryBuffer(
            history['values'].cpu().numpy(), history['counts'].cpu().numpy(), history['max_length']
        )
        for name, history in hub.get('log_histories', {}).items()
    }
    info = dict(hub.get('runtime_info') or {})
    # Keys of everything that was ever logged; mmengine warns of each that has no value.
    keys = dict(hub.get('resumed_keys') or {})
    resumed = {key: keys[key] for key in keys if key in histories or key in info}
    return dict(log_scalars=histories, runtime_info=info, resumed_keys=resumed)
