"""Feature pyramid neck without parameters that never receive a gradient."""

from typing import Any

from mmdet.models.necks import FPN
from mmdet3d.registry import MODELS
from torch import nn


@MODELS.register_module()
class CPFPN(FPN):
    """mmdet's FPN with an output convolution on its finest level alone.

    CMT's head reads one level, so the output convolutions of the others would never get a
    gradient, which distributed training and activation checkpointing do not accept. The other
    levels are returned as the lateral sums they are. Parameter names are the released ones;
    arguments are those of :class:`mmdet.models.necks.FPN`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for level in range(1, len(self.lateral_convs)):
            self.fpn_convs[level] = nn.Identity()
