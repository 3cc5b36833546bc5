"""The model inside its wrappers, and its weights and config inside theirs.

The one place that knows what wraps a model: distributed training, test time augmentation, moving
averages, and torch.compile.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

from mmengine.model import BaseAveragedModel, BaseTTAModel, is_model_wrapper
from torch import nn
from torch.optim.swa_utils import AveragedModel

_PREFIX = re.compile(r'^(?:(?:module|_orig_mod)(?:\.|$))+')


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without any wrapper."""
    averaged_or_augmented = (BaseAveragedModel, AveragedModel, BaseTTAModel)
    while True:
        if isinstance(model, averaged_or_augmented) or is_model_wrapper(model):
            model = cast(nn.Module, model.module)
        elif isinstance(inner := getattr(model, '_orig_mod', None), nn.Module):
            model = inner  # what torch.compile returns
        else:
            return model


def unwrapped_weights(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state dict with the names that the model itself gives, not a wrapper that saved it.

    So are those in its ``_metadata``, by which modules know how their weights were stored. Where
    no wrapper saved it, this is the same object.
    """
    if not any(_PREFIX.match(str(key)) for key in weights):
        return weights
    renamed = OrderedDict((_PREFIX.sub('', str(key)), value) for key, value in weights.items())
    if (metadata := getattr(weights, '_metadata', None)) is not None:
        plain = {_PREFIX.sub('', name): entry for name, entry in metadata.items()}
        renamed._metadata = plain  # type: ignore[attr-defined]
    return renamed


def unwrapped_config(model: Mapping) -> Mapping:
    """The config of the model itself, from that of a wrapper such as a ``BaseTTAModel``."""
    while isinstance(model.get('module'), Mapping):
        model = model['module']
    return model
