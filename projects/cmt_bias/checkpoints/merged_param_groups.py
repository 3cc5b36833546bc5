"""Parameter groups of the optimizer: one for each set of settings, not one for each parameter."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedParamGroupsConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with equal parameter groups made one.

    With ``paramwise_cfg`` mmengine gives each parameter a group, and torch's optimizers update
    group by group: hundreds of small updates where a handful of large ones would do. A run is
    resumed only with groups as it was saved with.
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
    """New groups, of equal settings one, in the order in which settings first occur."""
    merged: list[dict[str, Any]] = []
    for group in groups:
        for known in merged:
            if {**known, 'params': 0} == {**group, 'params': 0}:
                known['params'] += group['params']
                break
        else:
            merged.append({**group, 'params': list(group['params'])})
    return merged
