"""CMT's head with a bias on its cross-attention."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor

from ..cmt.head import CmtHead, DecoderInputs
from ..cmt.precision import autocast_off
from ..ops import MODALITIES, WindowedBias
from ..ops.operator import is_compiling
from .generator import AttentionBiasGenerator
from .transformer import AttentionBiasCmtTransformer
from .windows import find_windows

# Registered here, so that its own file needs torch alone.
MODELS.register_module(module=AttentionBiasGenerator)

# Float arithmetic may leave a weight this far outside its range.
WEIGHT_TOLERANCE = 1e-6


@MODELS.register_module()
class AttentionBiasCmtHead(CmtHead):
    """A CMT head whose queries, denoising queries included, weigh LiDAR and cameras.

    A weight generator gives every query its trust in each sensor, and a bias generator turns the
    weights into a bias on the cross-attention of each decoder layer.

    Args:
        weight_generator: Config of the weight generator, an ``AQRWeightGenerator`` unless it says
            otherwise; its ``embed_dims`` and ``pc_range`` are filled in.
        attention_bias_config: Config of the :class:`AttentionBiasGenerator`; its ``num_layers`` is
            filled in.
        kwargs: Arguments of :class:`CmtHead`; ``transformer`` must be an
            ``AttentionBiasCmtTransformer``.

    Raises:
        TypeError: If the transformer cannot take a bias.
        ValueError: If the config contradicts itself.
    """

    def __init__(
        self,
        weight_generator: dict | None = None,
        attention_bias_config: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(self.transformer, AttentionBiasCmtTransformer):
            raise TypeError(
                f'{type(self).__name__}: pts_bbox_head.transformer is a '
                f'{type(self.transformer).__name__}, which cannot take an attention bias; set '
                "transformer=dict(type='AttentionBiasCmtTransformer', ...)."
            )
        weights = dict(dict(type='AQRWeightGenerator'), **weight_generator or {})
        known = dict(embed_dims=self.hidden_dim, pc_range=self.pc_range)
        cls = MODELS.get(weights['type']) if isinstance(weights['type'], str) else weights['type']
        taken = () if cls is None else inspect.signature(cls).parameters
        known = {key: value for key, value in known.items() if key in taken}
        self.weight_generator = MODELS.build(known | weights)

        bias = dict(dict(type='AttentionBiasGenerator'), **attention_bias_config or {})
        num_layers = self.transformer.decoder.num_layers
        if bias.setdefault('num_layers', num_layers) != num_layers:
            raise ValueError(
                f'attention_bias_config: num_layers={bias["num_layers"]} but the decoder has '
                f'{num_layers} layers; leave num_layers out.'
            )
        self.attention_bias_generator = MODELS.build(bias)
        self._has_run = False

    def trust_of_queries(self, inputs: DecoderInputs, img_metas: Sequence[dict]) -> WindowedBias:
        """Windows and trust of the queries.

        Raises:
            ValueError: If weights have another shape than ``(B, Q)``, or lie outside [-1, 1].
        """
        memory, query_pos = inputs.memory, inputs.query_pos
        shapes = self.attention_bias_generator.window_shapes
        with autocast_off(query_pos):
            points, cameras = inputs.reference_points, inputs.cameras
            windows = find_windows(points, memory.layout, cameras, self.range_limits, shapes)
        weights = self.weight_generator(query_pos, memory.tokens, memory.pos, windows, img_metas)
        for modality, of_queries in zip(MODALITIES, weights, strict=True):
            if of_queries.shape != query_pos.shape[:2]:
                raise ValueError(
                    f'weight_generator: {modality}_weights have the shape '
                    f'{tuple(of_queries.shape)}, (batch, queries) = {tuple(query_pos.shape[:2])} '
                    'is needed.'
                )
            # Sizes are looked at where that waits for no accelerator: there in the first batch.
            if is_compiling() or (self._has_run and of_queries.device.type != 'cpu'):
                continue
            largest = float(of_queries.detach().abs().max()) if of_queries.numel() else 0.0
            if largest > 1 + WEIGHT_TOLERANCE:  # NaN is not: it comes from elsewhere
                raise ValueError(
                    f'weight_generator: {modality}_weights reach {largest:g} in size, they must '
                    'lie in [-1, 1]; end the weight generator with tanh.'
                )
        self._has_run = True
        return WindowedBias(windows, torch.stack(weights, dim=-1))

    def decode_queries(self, inputs: DecoderInputs, self_attn_mask: Tensor | None) -> Tensor:
        """Decode with a bias on the cross-attention; see :meth:`CmtHead.decode_queries`."""
        bias = self.attention_bias_generator(inputs.trust)
        memory, query_pos = inputs.memory, inputs.query_pos
        return self.transformer(memory.tokens, memory.pos, query_pos, self_attn_mask, bias)
