"""Parameter groups of the optimizer: one for each set of settings, not one for each parameter."""

from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedParamGroupsConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with groups of equal settings made one.

    With ``paramwise_cfg`` mmengine gives each parameter a group, and torch's optimizers update
    group by group: hundreds of small updates where a handful of large ones would do. A run is
    resumed only with groups as it was saved with.
    """

    optimizer_cfg: dict[str, Any]

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper."""
        on_cpu = all(parameter.device.type == 'cpu' for parameter in model.parameters())
        if on_cpu and torch.__version__ < '2.4':  # which fuses on GPUs alone
            self.optimizer_cfg = {k: v for k, v in self.optimizer_cfg.items() if k != 'fused'}
        return super().__call__(model)

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Add a module's parameters to the groups; called for the whole model, then for parts."""
        super().add_params(params, module, prefix, **kwargs)
        if prefix:
            return
        merged: list[dict[str, Any]] = []
        for group in params:
            equal = (known for known in merged if {**known, 'params': 0} == {**group, 'params': 0})
            if (known := next(equal, None)) is not None:
                known['params'] += group['params']
            else:
                merged.append(group)
        params[:] = merged
