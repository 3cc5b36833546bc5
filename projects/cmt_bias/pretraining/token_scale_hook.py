"""Give the tokens of both sensors one scale before the decoder sees them."""

from collections.abc import Iterable, Iterator
from itertools import compress, islice
from typing import Any

import torch
from mmdet3d.registry import HOOKS
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ..spoiled_parts import SPOILED_SENSORS_KEY
from ..unwrapping import unwrapped

# Standard deviation of a normalized and rectified Gaussian, for which values are initialized.
FRESH = 0.58


@HOOKS.register_module()
class TokenScaleHook(Hook):
    """Scale camera and LiDAR tokens to one standard deviation at the start of a training.

    The larger a sensor's tokens, the more of the decoder's output and gradient is theirs; after a
    pretraining the cameras' are the larger. The cameras' channels are centred (rectified ones, as
    the LiDAR's, cannot be), and all multiplied by one factor, in the layer that makes the tokens:
    the neck's output convolution or the batch normalization of ``shared_conv``. So the model stays
    the one of the config, and its checkpoints hold both. A resumed training is left as it is.
    Samples that a failure has spoiled are not measured; those of a :class:`ModalMask3D` are.

    Tokens and their positions are added where attention looks: the smaller the tokens, the more it
    looks by place, at first. The projections of the values are multiplied by the inverse, so that
    what attention finds stays as large.

    Args:
        std: Standard deviation within channels; :data:`FRESH` is that of fresh LiDAR tokens.
        num_batches: Training batches to measure on, of those with a healthy sample.
    """

    priority = 'LOW'

    def __init__(self, std: float = FRESH, num_batches: int = 8) -> None:
        self.std, self.num_batches = std, num_batches

    def before_train(self, runner: Runner) -> None:
        """Measure, scale, and say both."""
        if runner.iter > 0:
            return
        model = unwrapped(runner.model)
        found = self._measure(runner, model)
        if not found:
            runner.logger.warning('TokenScaleHook: no healthy sample, so tokens stay as they are')
            return
        for sensor, (mean, std) in found.items():
            _scale_tokens(model, sensor, mean, self.std / std.clamp(min=1e-6))
        head: Any = model.pts_bbox_head
        for layer in head.transformer.decoder.layers:
            *_, value_weight = layer.cross_attention.attn.in_proj_weight.data.chunk(3)
            value_weight.mul_(FRESH / self.std)
        runner.logger.info(
            'Standard deviation of tokens within channels, before it was made %.2f: %s',
            self.std,
            ', '.join(f'{sensor} {float(std):.3f}' for sensor, (_, std) in found.items()),
        )

    @torch.no_grad()
    def _measure(self, runner: Runner, model: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Means ``(C,)`` and standard deviation ``()`` of tokens, over all processes."""
        training = model.training
        model.eval()
        moments: dict[str, Tensor] = {}
        for batch in islice(_without_failures(runner.train_dataloader), self.num_batches):
            data = model.data_preprocessor(batch, False)
            metas = [sample.metainfo for sample in data['data_samples']]
            img_feats, pts_feats = model.extract_feat(data['inputs'], metas)
            maps = {}  # what CMT's head takes for tokens: (N, C, rows, columns)
            if img_feats is not None:
                maps['cameras'] = img_feats[0].float()
            if pts_feats is not None:
                maps['LiDAR'] = model.pts_bbox_head.shared_conv(pts_feats[0].float())
            for sensor, tokens in maps.items():
                channels = tokens.transpose(0, 1).flatten(1)
                mean, square = channels.mean(1), channels.square().mean(1)
                found = torch.stack((mean, square, torch.ones_like(mean)))
                moments[sensor] = moments.get(sensor, 0) + found
        model.train(training)
        measured = {}
        for sensor, found in moments.items():
            all_reduce(found)
            mean, square = found[:2] / found[2]
            measured[sensor] = mean, (square - mean**2).mean().clamp(min=0).sqrt()
        return measured


def _without_failures(batches: Iterable[dict]) -> Iterator[dict]:
    """Batches of the samples that no failure has spoiled."""
    for batch in batches:
        metas = [sample.metainfo for sample in batch['data_samples']]
        kept = [m.get('masked_modality') or not m.get(SPOILED_SENSORS_KEY) for m in metas]
        if any(kept):
            inputs = {key: [*compress(values, kept)] for key, values in batch['inputs'].items()}
            yield dict(inputs=inputs, data_samples=[*compress(batch['data_samples'], kept)])


@torch.no_grad()
def _scale_tokens(model: Any, sensor: str, mean: Tensor, factor: Tensor) -> None:
    """Multiply a sensor's tokens; those of the cameras, which nothing rectifies, centred."""
    if sensor == 'LiDAR':
        layer: Any = model.pts_bbox_head.shared_conv.norm
    else:
        output = model.img_neck.fpn_convs[0]
        layer = output.norm if output.with_norm else output.conv
        layer.bias.sub_(mean)
    layer.weight.mul_(factor)
    layer.bias.mul_(factor)
