"""The model inside its wrappers."""

from typing import cast

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without wrappers of distributed training."""
    while is_model_wrapper(model):
        model = cast(nn.Module, model.module)
    return model
