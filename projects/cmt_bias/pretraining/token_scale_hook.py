"""Give the tokens of both sensors one scale before the decoder sees them."""

from typing import Any

import torch
from mmdet3d.registry import HOOKS
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ..unwrapping import unwrapped


@HOOKS.register_module()
class TokenScaleHook(Hook):
    """Scale camera and LiDAR tokens to one standard deviation at the start of a training.

    The larger a sensor's tokens, the more of the decoder's output and gradient is theirs: after a
    pretraining the cameras' had a standard deviation of 2.7 beside 0.6 of the LiDAR's, and the
    detector learned to use the cameras alone; from a fresh neck it was the other way about. The
    factors go into the last layer that makes the tokens (the neck's output convolution, the batch
    normalization of ``shared_conv``), so that the model stays the one of the config and its
    checkpoints hold them. A resumed training is left as it is.

    Args:
        std: Standard deviation over all tokens and channels; 0.58 is that of a normalized and
            rectified Gaussian, hence of fresh LiDAR tokens.
        num_batches: Training batches to measure on.
    """

    priority = 'LOW'

    def __init__(self, std: float = 0.58, num_batches: int = 8) -> None:
        self.std = std
        self.num_batches = num_batches

    def before_train(self, runner: Runner) -> None:
        """Measure, scale, and say both."""
        if runner.iter > 0:
            return
        model = unwrapped(runner.model)
        measured = self._measure(runner, model)
        for sensor, std in measured.items():
            _scale_tokens(model, sensor, self.std / max(std, 1e-6))
        runner.logger.info(
            'Standard deviation of tokens before scaling to %.2f: %s',
            self.std,
            ', '.join(f'{sensor} {std:.3f}' for sensor, std in measured.items()),
        )

    @torch.no_grad()
    def _measure(self, runner: Runner, model: Any) -> dict[str, float]:
        """Standard deviation of each sensor's tokens, over the processes of a launch."""
        training = model.training
        model.eval()
        moments: dict[str, Tensor] = {}
        for _, batch in zip(range(self.num_batches), runner.train_dataloader, strict=False):
            data = model.data_preprocessor(batch, False)
            for sensor, tokens in _tokens_of(model, data).items():
                found = torch.stack((tokens.mean(), tokens.square().mean(), tokens.new_ones(())))
                moments[sensor] = moments.get(sensor, 0) + found
        model.train(training)
        for found in moments.values():
            all_reduce(found)
        return {
            sensor: float((square / count - (mean / count) ** 2).clamp(min=0).sqrt())
            for sensor, (mean, square, count) in moments.items()
        }


def _tokens_of(model: Any, data: dict) -> dict[str, Tensor]:
    """What CMT's head takes for tokens, before it flattens them."""
    metas = [sample.metainfo for sample in data['data_samples']]
    img_feats, pts_feats = model.extract_feat(data['inputs'], metas)
    tokens = {}
    if img_feats is not None:
        tokens['cameras'] = img_feats[0].float()
    if pts_feats is not None:
        tokens['LiDAR'] = model.pts_bbox_head.shared_conv(pts_feats[0].float())
    return tokens


@torch.no_grad()
def _scale_tokens(model: Any, sensor: str, factor: float) -> None:
    """Multiply a sensor's tokens; what follows the layer (a ReLU, or nothing) is homogeneous."""
    if sensor == 'LiDAR':
        layer: nn.Module = model.pts_bbox_head.shared_conv.bn
    else:
        output = model.img_neck.fpn_convs[0]
        layer = output.bn if output.with_norm else output.conv
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            parameter.mul_(factor)
