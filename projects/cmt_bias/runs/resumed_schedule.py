"""What a resume changes of the schedule that a config gives.

mmengine loads the saved state of schedulers and optimizer over what the config made of them:
rates, periods and decays are those of the first start, whatever the config says by now. The number
of epochs is the config's.
"""

import copy
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler

Settings = dict[str, Any]
"""Settings by the name under which a warning shows them."""

# How far a scheduler is, not how it was set. What differs between groups follows from the groups'.
_PROGRESS = {'last_step', 'verbose', 'base_values'}


def schedule_settings(wrapper: Any, schedulers: Any) -> Settings:
    """How a runner's optimizer and schedulers are set, whether they have been resumed or not.

    Nothing is said of what is not built yet, or of several optimizers.
    """
    settings: Settings = {}
    if not isinstance(wrapper, OptimWrapper) or isinstance(wrapper, OptimWrapperDict):
        return settings
    for index, scheduler in enumerate(schedulers or ()):
        if isinstance(scheduler, _ParamScheduler):
            name = f'param_scheduler[{index}]'
            settings[name] = type(scheduler).__name__
            for key, value in scheduler.state_dict().items():
                if key not in _PROGRESS and not key.startswith('_'):
                    settings[f'{name}.{key}'] = copy.deepcopy(value)
    for index, group in enumerate(wrapper.optimizer.param_groups):
        moving = {'params', 'lr'}
        if 'initial_momentum' in group:
            moving |= {'momentum', 'betas'}
        for key in group.keys() - moving:
            settings[f'optimizer.param_groups[{index}].{key}'] = copy.deepcopy(group[key])
    return settings


def resume_warnings(configured: Settings, in_effect: Settings) -> list[str]:
    """One warning, or none, that names the settings of a config which a resume has replaced.

    Args:
        configured: :func:`schedule_settings` before the resume.
        in_effect: The same after it.
    """
    if not configured:
        return []
    pairs = {
        name: (configured.get(name, 'not set'), in_effect.get(name, 'not set'))
        for name in sorted(configured.keys() | in_effect.keys())
    }
    different = [
        f'  {name}: {wanted} in the config, {found} in the checkpoint'
        for name, (wanted, found) in pairs.items()
        if wanted != found
    ]
    if not different:
        return []
    return [
        'The training goes on with the schedule of its checkpoint, not with that of the config; '
        'what the checkpoint says holds:\n'
        + '\n'.join(different)
        + '\nTo train with the schedule of the config, start from the weights instead: '
        'load_from=CHECKPOINT without resume, in another work_dir.'
    ]
