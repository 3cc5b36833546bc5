"""The model inside its wrappers."""

from mmengine.model import BaseAveragedModel, BaseTTAModel, is_model_wrapper
from torch import nn
from torch.optim.swa_utils import AveragedModel

_AROUND_A_MODULE = (BaseTTAModel, BaseAveragedModel, AveragedModel, nn.DataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, whatever stands around it.

    Seen through are distributed training, averaging (EMA), test time augmentation and
    ``torch.compile``, in any order.
    """
    while True:
        if is_model_wrapper(model) or isinstance(model, _AROUND_A_MODULE):
            model = model.module
        elif isinstance(compiled := getattr(model, '_orig_mod', None), nn.Module):
            model = compiled
        else:
            return model
