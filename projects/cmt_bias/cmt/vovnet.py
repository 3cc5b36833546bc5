"""VoVNet with effective squeeze-and-excitation, the image backbone of the large CMT recipe."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, hardsigmoid

from .frozen_modules import FrozenModulesMixin


class VoVNetSpec(NamedTuple):
    """Widths and depths of one VoVNet, the first three for each of its four stages."""

    layer_channels: tuple[int, int, int, int]  # of every 3x3 layer inside the blocks
    stage_channels: tuple[int, int, int, int]
    num_blocks: tuple[int, int, int, int]  # of one-shot aggregation
    layers_per_block: int  # 3x3 layers whose outputs a block concatenates


_LAYERS, _STAGES = (128, 160, 192, 224), (256, 512, 768, 1024)

VOVNET_SPECS: dict[str, VoVNetSpec] = {
    'V-19-slim-eSE': VoVNetSpec((64, 80, 96, 112), (112, 256, 384, 512), (1, 1, 1, 1), 3),
    'V-19-eSE': VoVNetSpec(_LAYERS, _STAGES, (1, 1, 1, 1), 3),
    'V-39-eSE': VoVNetSpec(_LAYERS, _STAGES, (1, 1, 2, 2), 5),
    'V-57-eSE': VoVNetSpec(_LAYERS, _STAGES, (1, 1, 4, 3), 5),
    'V-99-eSE': VoVNetSpec(_LAYERS, _STAGES, (1, 3, 9, 3), 5),
}

_STAGE_NAMES = ('stage2', 'stage3', 'stage4', 'stage5')
_FEATURE_NAMES = ('stem', *_STAGE_NAMES)


def _conv_norm_relu(
    in_channels: int, out_channels: int, name: str, kernel_size: int = 3, stride: int = 1
) -> OrderedDict[str, nn.Module]:
    """Convolution, batch norm and ReLU under the names that published checkpoints use."""
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
    norm, relu = nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    return OrderedDict({f'{name}/conv': conv, f'{name}/norm': norm, f'{name}/relu': relu})


class EffectiveSqueezeExcitation(nn.Module):
    """Channel gate of CenterMask (Lee and Park, CVPR 2020): one 1x1 layer without reduction."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Scale each channel of a feature map (B, C, H, W) by a gate in [0, 1]."""
        return feature_map * hardsigmoid(self.fc(adaptive_avg_pool2d(feature_map, 1)))


class OneShotAggregation(nn.Module):
    """Block of VoVNet: a chain of 3x3 layers, all of whose outputs are concatenated once.

    ``name`` begins the parameters' names; with ``residual`` the input is added to the output.
    """

    def __init__(
        self,
        in_channels: int,
        layer_channels: int,
        out_channels: int,
        num_layers: int,
        name: str,
        residual: bool,
    ) -> None:
        super().__init__()
        self.residual = residual
        inputs = [in_channels] + [layer_channels] * (num_layers - 1)
        self.layers = nn.ModuleList(
            nn.Sequential(_conv_norm_relu(channels, layer_channels, f'{name}_{index}'))
            for index, channels in enumerate(inputs)
        )
        all_channels = in_channels + num_layers * layer_channels
        self.concat = nn.Sequential(
            _conv_norm_relu(all_channels, out_channels, f'{name}_concat', kernel_size=1)
        )
        self.ese = EffectiveSqueezeExcitation(out_channels)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        outputs = [feature_map]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        aggregated = self.ese(self.concat(torch.cat(outputs, dim=1)))
        return aggregated + feature_map if self.residual else aggregated


@MODELS.register_module()
class VoVNet(FrozenModulesMixin, BaseModule):
    """VoVNetV2 (Lee et al., CVPRW 2019; Lee and Park, CVPR 2020).

    Parameter names are those of the CMT, PETR and DD3D releases, so their checkpoints load.

    Args:
        spec_name: A key of `VOVNET_SPECS`, such as `'V-99-eSE'`.
        input_ch: Channels of the input image.
        out_features: Names of the feature maps to return, in any order, out of `'stem'`
            (stride 4), `'stage2'` (4), `'stage3'` (8), `'stage4'` (16) and `'stage5'` (32).
        frozen_stages: -1 trains everything, 0 freezes the stem, n > 0 also the first n stages.
        norm_eval: Keep every batch norm in eval mode during training.

    Raises:
        ValueError: If one of them names something that does not exist.
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
        spec = VOVNET_SPECS[spec_name]
        # three convolutions that reduce the image by four
        self.stem = nn.Sequential(
            _conv_norm_relu(input_ch, 64, 'stem_1', stride=2)
            | _conv_norm_relu(64, 64, 'stem_2')
            | _conv_norm_relu(64, 128, 'stem_3', stride=2)
        )
        in_channels = 128
        stages = zip(range(2, 6), *spec[:3], strict=True)
        for stage, layer_channels, out_channels, num_blocks in stages:
            modules = nn.Sequential()
            if stage > 2:  # stage 2 has the stem's resolution, each other half that of the last
                modules.add_module('Pooling', nn.MaxPool2d(3, stride=2, ceil_mode=True))
            for block in range(num_blocks):
                name = f'OSA{stage}_{block + 1}'
                sizes = (in_channels, layer_channels, out_channels, spec.layers_per_block)
                modules.add_module(name, OneShotAggregation(*sizes, name, residual=block > 0))
                in_channels = out_channels
            self.add_module(f'stage{stage}', modules)
        frozen = _FEATURE_NAMES[: frozen_stages + 1]
        self.freeze(frozen, statistics=_FEATURE_NAMES if norm_eval else ())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps named by `out_features`, from fine to coarse, (B, C, H/s, W/s), rounded up.

        ``images`` are normalised, (B, input_ch, H, W).
        """
        outputs = []
        for name in _FEATURE_NAMES:
            images = getattr(self, name)(images)
            if name in self.out_features:
                outputs.append(images)
        return tuple(outputs)
