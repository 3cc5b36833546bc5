"""CMT's head with a bias on its cross-attention."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

from mmdet3d.registry import MODELS
from torch import Tensor

from ..cmt.head import CmtHead, DecoderInputs, Memory
from ..cmt.position_encoding import CameraGeometry
from ..ops import QueryWindows
from .generator import AttentionBiasGenerator
from .transformer import AttentionBiasCmtTransformer

# Registered here, so that its own file needs torch alone.
MODELS.register_module(module=AttentionBiasGenerator)


class TrustedWindows(NamedTuple):
    """What the bias is made of, but for its scale.

    Attributes:
        windows: Of the queries.
        lidar_weights: ``(B, Q)`` trust in the LiDAR, in [-1, 1].
        camera_weights: ``(B, Q)`` trust in the cameras, in [-1, 1].
    """

    windows: QueryWindows
    lidar_weights: Tensor
    camera_weights: Tensor


@MODELS.register_module()
class AttentionBiasCmtHead(CmtHead):
    """A CMT head whose queries weigh LiDAR and cameras.

    Everything is :class:`CmtHead`'s but the decoding: a weight generator gives every query,
    denoising queries included, its trust in each sensor, and a bias generator turns the weights
    into a bias on the cross-attention of each decoder layer.

    Args:
        weight_generator: Config of the weight generator; its ``embed_dims`` and
            ``pc_range`` are filled in.
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
        self.weight_generator = MODELS.build(
            self._with_settings(weight_generator or dict(type='AQRWeightGenerator'))
        )
        self.attention_bias_generator = self._build_bias_generator(attention_bias_config or {})

    def _with_settings(self, config: dict) -> dict:
        """The weight generator's config with ``embed_dims`` and ``pc_range``, if it takes them."""
        cls = MODELS.get(config['type']) if isinstance(config['type'], str) else config['type']
        taken = () if cls is None else inspect.signature(cls).parameters
        known = dict(embed_dims=self.hidden_dim, pc_range=self.pc_range)
        return dict({key: value for key, value in known.items() if key in taken}, **config)

    def _build_bias_generator(self, config: dict) -> AttentionBiasGenerator:
        config = dict(config)
        config.setdefault('type', 'AttentionBiasGenerator')
        num_layers = self.transformer.decoder.num_layers
        if config.setdefault('num_layers', num_layers) != num_layers:
            raise ValueError(
                f'attention_bias_config: num_layers={config["num_layers"]} but the decoder has '
                f'{num_layers} layers; leave num_layers out.'
            )
        return MODELS.build(config)

    def attention_inputs(
        self,
        memory: Memory,
        query_pos: Tensor,
        reference_points: Tensor,
        cameras: CameraGeometry | None,
        img_metas: Sequence[dict],
    ) -> TrustedWindows:
        """Windows and trust of the queries; arguments of :meth:`CmtHead.attention_inputs`."""
        windows = self.attention_bias_generator.find_windows(
            reference_points, memory.layout, cameras, self.range_limits
        )
        weights = self.weight_generator(query_pos, memory.tokens, memory.pos, windows, img_metas)
        return TrustedWindows(windows, *weights)

    def decode_queries(self, inputs: DecoderInputs, self_attn_mask: Tensor | None) -> Tensor:
        """Decode with a bias on the cross-attention; see :meth:`CmtHead.decode_queries`."""
        return self.transformer(
            inputs.memory.tokens,
            inputs.memory.pos,
            inputs.query_pos,
            self_attn_mask,
            attention_bias=self.attention_bias_generator(*inputs.attention_inputs),
        )
