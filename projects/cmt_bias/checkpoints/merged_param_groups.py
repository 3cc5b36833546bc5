"""Parameter groups of the optimizer: one for each set of settings, not one for each parameter."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from .safe_loading import CheckpointError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedParamGroupsConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with equal parameter groups made one.

    With ``paramwise_cfg`` mmengine gives each parameter a group, and torch's optimizers update
    group by group: hundreds of small updates where a handful of large ones would do.

    A run is resumed only with groups as it was saved with (:func:`check_saved_param_groups`).
    """

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Add a module's parameters to the groups; called for the whole model, then for parts."""
        super().add_params(params, module, prefix, is_dcn_module)
        if not prefix:
            params[:] = merge_param_groups(params)


def merge_param_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join groups with the same settings, in the order in which settings first occur.

    Args:
        groups: Groups with a list of ``'params'`` and any settings.

    Returns:
        New groups; parameters keep their order within each.
    """
    merged: list[dict[str, Any]] = []
    for group in groups:
        same = next((known for known in merged if _settings(known) == _settings(group)), None)
        if same is None:
            merged.append({**group, 'params': list(group['params'])})
        else:
            same['params'] += group['params']
    return merged


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != 'params'}


def check_saved_param_groups(wrapper: OptimWrapper, saved: dict[str, Any]) -> None:
    """Find out whether an optimizer's saved state fits the optimizer's groups.

    Args:
        wrapper: The wrapper of the optimizer.
        saved: What its ``state_dict`` was when the checkpoint was written.

    Raises:
        CheckpointError: If there are other groups in the checkpoint.
    """
    groups, saved_groups = wrapper.optimizer.param_groups, saved['param_groups']
    if [len(group['params']) for group in groups] != [len(g['params']) for g in saved_groups]:
        raise CheckpointError(
            f'The run cannot be resumed: its optimizer has {len(groups)} parameter groups, the '
            f"checkpoint's has {len(saved_groups)}. optim_wrapper.constructor or "
            'optim_wrapper.paramwise_cfg is not as it was. To resume a run from before equal '
            'groups were merged: '
            '--cfg-options optim_wrapper.constructor=DefaultOptimWrapperConstructor'
        )


def check_saved_schedulers(schedulers: Any, saved: Any) -> None:
    """Find out whether the saved states of schedulers fit the schedulers.

    mmengine pairs them as far as there are of both, and would start the rest at the beginning.

    Args:
        schedulers: The runner's: a list, or a list for each optimizer.
        saved: What was saved of them.

    Raises:
        CheckpointError: If there are more or fewer in the checkpoint.
    """
    counts = [
        {key: len(several) for key, several in lists.items()}
        if isinstance(lists, dict)
        else len(lists)
        for lists in (schedulers, saved)
    ]
    if counts[0] != counts[1]:
        raise CheckpointError(
            f'The run cannot be resumed: param_scheduler has {counts[0]} schedulers, the '
            f"checkpoint's had {counts[1]}. Remedy: resume with the param_scheduler that the "
            'checkpoint was trained with, or start from its weights, with load_from and without '
            'resume'
        )
