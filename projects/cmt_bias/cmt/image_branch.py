"""The image branch of the released recipes: GridMask, VoVNet and CPFPN."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.models.necks import FPN
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, hardsigmoid

from .frozen_modules import FrozenModulesMixin

_LAYERS, _STAGES = (128, 160, 192, 224), (256, 512, 768, 1024)
# For each of a VoVNet's four stages the channels of the 3x3 layers inside its blocks, the channels
# that come out, and the number of blocks; then the 3x3 layers of a block.
VOVNET_SPECS = {
    'V-19-slim-eSE': ((64, 80, 96, 112), (112, 256, 384, 512), (1, 1, 1, 1), 3),
    'V-19-eSE': (_LAYERS, _STAGES, (1, 1, 1, 1), 3),
    'V-39-eSE': (_LAYERS, _STAGES, (1, 1, 2, 2), 5),
    'V-57-eSE': (_LAYERS, _STAGES, (1, 1, 4, 3), 5),
    'V-99-eSE': (_LAYERS, _STAGES, (1, 3, 9, 3), 5),
}
_STAGE_NAMES = ('stage2', 'stage3', 'stage4', 'stage5')
_FEATURE_NAMES = ('stem', *_STAGE_NAMES)


class GridMask(nn.Module):
    """Keep a regular grid of stripes of images and hide the rest (Chen et al., 2020), in training.

    One grid is drawn per call and used for every image of the batch, on a canvas 1.5 times the
    image of which the image is the middle. Random numbers come from numpy's global generator, so
    that a seed gives the same grids as in the released code with CMT's settings.

    ``ratio`` is the width of a stripe as a share of the grid's period, ``prob`` the probability of
    using a grid at all.
    """

    def __init__(self, ratio: float = 0.5, prob: float = 0.7) -> None:
        super().__init__()
        self.ratio, self.prob = ratio, prob

    def forward(self, images: Tensor) -> Tensor:
        """Hide what lies in no stripe of a random grid; images are ``(N, C, H, W)``, H above 2."""
        if not self.training or np.random.rand() > self.prob:
            return images
        height, width = images.shape[-2:]
        period = np.random.randint(2, height)
        stripe = min(max(int(period * self.ratio + 0.5), 1), period - 1)
        in_stripe = []  # for each axis, which of its pixels lie in a stripe of the canvas
        for size in (height, width):
            canvas = int(1.5 * size)
            first = (canvas - size) // 2 - np.random.randint(period)
            offset = torch.arange(size, device=images.device) + first
            number = torch.div(offset, period, rounding_mode='floor')
            is_inside = (offset >= 0) & (number < canvas // period)
            in_stripe.append(is_inside & (offset - number * period < stripe))
        rows, columns = in_stripe
        return images * (rows[:, None] | columns).to(images.dtype)


@MODELS.register_module()
class CPFPN(FPN):
    """mmdet's FPN, of the same arguments, with an output convolution on its finest level alone.

    CMT's head reads one level, so the output convolutions of the others would never get a
    gradient, which distributed training and activation checkpointing do not accept. The other
    levels are returned as the lateral sums they are. Parameter names are the released ones.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for level in range(1, len(self.lateral_convs)):
            self.fpn_convs[level] = nn.Identity()


def _conv_norm_relu(
    in_channels: int, out_channels: int, name: str, kernel_size: int = 3, stride: int = 1
) -> OrderedDict[str, nn.Module]:
    """Convolution, batch norm and ReLU under the names that published checkpoints use."""
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
    norm, relu = nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    return OrderedDict({f'{name}/conv': conv, f'{name}/norm': norm, f'{name}/relu': relu})


class OneShotAggregation(nn.Module):
    """Block of VoVNet: a chain of 3x3 layers, all of whose outputs are concatenated once.

    A 1x1 layer without reduction (CenterMask, Lee and Park, CVPR 2020) gives each channel a gate
    in [0, 1]. ``name`` begins the parameters' names; with ``residual`` the input is added.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, num_layers: int, name: str, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList(
            nn.Sequential(_conv_norm_relu(channels, hidden, f'{name}_{index}'))
            for index, channels in enumerate([inputs, *[hidden] * (num_layers - 1)])
        )
        channels = inputs + num_layers * hidden
        self.concat = nn.Sequential(_conv_norm_relu(channels, outputs, f'{name}_concat', 1))
        self.ese = nn.ModuleDict(dict(fc=nn.Conv2d(outputs, outputs, 1)))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H, W)."""
        outputs = [feature_map]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        aggregated = self.concat(torch.cat(outputs, dim=1))
        aggregated = aggregated * hardsigmoid(self.ese['fc'](adaptive_avg_pool2d(aggregated, 1)))
        return aggregated + feature_map if self.residual else aggregated


@MODELS.register_module()
class VoVNet(FrozenModulesMixin, BaseModule):
    """VoVNetV2 (Lee et al., CVPRW 2019; Lee and Park, CVPR 2020).

    Parameter names are those of the CMT, PETR and DD3D releases, so their checkpoints load.

    Args:
        spec_name: A key of `VOVNET_SPECS`, such as `'V-99-eSE'`.
        out_features: Names of the feature maps to return, in any order, out of `'stem'`
            (stride 4), `'stage2'` (4), `'stage3'` (8), `'stage4'` (16) and `'stage5'` (32).
        frozen_stages: -1 trains everything, 0 freezes the stem, n > 0 also the first n stages.
        norm_eval: Keep every batch norm in eval mode during training.
    """

    def __init__(
        self,
        spec_name: str,
        input_ch: int = 3,
        out_features: Sequence[str] = _STAGE_NAMES,
        frozen_stages: int = -1,
        norm_eval: bool = True,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if spec_name not in VOVNET_SPECS:
            raise ValueError(
                f"VoVNet: unknown spec_name '{spec_name}'; choose one of {sorted(VOVNET_SPECS)}"
            )
        if not out_features or set(out_features) - set(_FEATURE_NAMES):
            raise ValueError(
                f'VoVNet: out_features={tuple(out_features)} must be some of {_FEATURE_NAMES}'
            )
        if not -1 <= frozen_stages <= len(_STAGE_NAMES):
            raise ValueError(f'VoVNet: frozen_stages={frozen_stages} must lie in -1..4')
        self.out_features = tuple(out_features)
        # three convolutions that reduce the image by four
        self.stem = nn.Sequential(
            _conv_norm_relu(input_ch, 64, 'stem_1', stride=2)
            | _conv_norm_relu(64, 64, 'stem_2')
            | _conv_norm_relu(64, 128, 'stem_3', stride=2)
        )
        channels = 128
        *of_stages, num_layers = VOVNET_SPECS[spec_name]
        for stage, hidden, outputs, num_blocks in zip(range(2, 6), *of_stages, strict=True):
            modules = nn.Sequential()
            if stage > 2:  # stage 2 has the stem's resolution, each other half that of the last
                modules.add_module('Pooling', nn.MaxPool2d(3, stride=2, ceil_mode=True))
            for block in range(num_blocks):
                name = f'OSA{stage}_{block + 1}'
                sizes = (channels, hidden, outputs, num_layers)
                modules.add_module(name, OneShotAggregation(*sizes, name, residual=block > 0))
                channels = outputs
            self.add_module(f'stage{stage}', modules)
        frozen = _FEATURE_NAMES[: frozen_stages + 1]
        self.freeze(frozen, statistics=_FEATURE_NAMES if norm_eval else ())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`out_features` of (B, input_ch, H, W), fine to coarse, (B, C, H/s, W/s) rounded up."""
        outputs = []
        for name in _FEATURE_NAMES:
            images = getattr(self, name)(images)
            if name in self.out_features:
                outputs.append(images)
        return tuple(outputs)
