"""Watch the attention bias at work in one forward pass of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..cmt.position_encoding import common_image_shape, denormalize_points
from ..ops import QueryWindows, TokenLayout, WindowedBias
from .attention_mass import attention_mass


@dataclass(frozen=True)
class ObservedLayer:
    """What the cross-attention of one decoder layer got.

    Attributes:
        query: ``(1, H, Q, D)`` projected queries.
        key: ``(1, H, K, D)`` projected keys.
        bias: The bias on its logits.
    """

    query: Tensor
    key: Tensor
    bias: WindowedBias


@dataclass(frozen=True)
class BiasObservation:
    """The bias of one sample, and the attention that it acts on.

    Attributes:
        weights: ``(Q, 2)`` trust in LiDAR and cameras, in [-1, 1].
        scales: ``(L, 2)`` scale in effect of each layer on LiDAR and cameras.
        reference_points: ``(Q, 3)`` metres, LiDAR frame.
        detection_queries: ``(n,)`` the query that each detection comes from.
        layers: The L decoder layers.
        pad_shape: ``(H, W)`` of the padded images in pixels; None without cameras.
        pc_range: ``(x_min, y_min, z_min, x_max, y_max, z_max)`` of the BEV map, metres.
    """

    weights: Tensor
    scales: Tensor
    reference_points: Tensor
    detection_queries: Tensor
    layers: Sequence[ObservedLayer]
    pad_shape: tuple[int, int] | None
    pc_range: Sequence[float]

    @property
    def windows(self) -> QueryWindows:
        """The windows of the queries, the same in all layers."""
        return self.layers[0].bias.windows

    @property
    def layout(self) -> TokenLayout:
        """The tokens of the memory."""
        return self.windows.layout

    def attention_mass(self, queries: Tensor) -> Tensor:
        """Where the attention of some queries goes; see :func:`attention_mass`.

        Without the bias means: the layer gets what it gets in the biased decoder, and this
        layer's attention alone leaves the bias out. Layers before it keep theirs, so that the
        difference is what the bias does in this layer.

        Args:
            queries: ``(n,)`` numbers of queries.

        Returns:
            ``(L, 2, n, 4)``: layer, without and with the bias, query, part.
        """
        return torch.stack(
            [
                attention_mass(
                    layer.query[:, :, queries],
                    layer.key,
                    layer.bias.of_queries(queries),
                )[:, 0]
                for layer in self.layers
            ]
        )


class BiasObserver:
    """Watches a head with an attention bias through hooks; its results stay as they are.

    Use it as a context around one forward pass of one sample, in evaluation mode::

        with BiasObserver(model.pts_bbox_head) as observer:
            model.test_step(batch)
        observation = observer.observation()

    It keeps the projected queries and keys of every layer, some 60 MB a layer for 56,400 tokens.

    Args:
        head: An ``AttentionBiasCmtHead``.
    """

    def __init__(self, head: nn.Module) -> None:
        self.head = head
        self._handles: list[RemovableHandle] = []
        self._layers: list[ObservedLayer] = []
        self._weights: tuple[Tensor, Tensor] | None = None
        self._inputs: tuple[Any, ...] = ()
        self._outputs: Any = None

    def __enter__(self) -> BiasObserver:
        """Start watching."""
        head: Any = self.head
        self._handles = [
            self.head.register_forward_hook(self._keep_head),
            self.head.get_submodule('weight_generator').register_forward_hook(self._keep_weights),
        ]
        for layer in head.transformer.decoder.layers:
            hook = layer.cross_attention.register_forward_pre_hook
            self._handles.append(hook(self._keep_layer, with_kwargs=True))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _keep_head(self, head: nn.Module, inputs: tuple, outputs: Any) -> None:
        self._inputs, self._outputs = inputs, outputs

    def _keep_weights(
        self, generator: nn.Module, inputs: tuple, outputs: tuple[Tensor, Tensor]
    ) -> None:
        self._weights = outputs

    def _keep_layer(self, attention: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        query, key, value = args
        heads, keys, _ = attention.project_heads(
            query + kwargs['query_pos'], key + kwargs['key_pos'], value
        )
        self._layers.append(ObservedLayer(heads, keys, kwargs['logit_bias']))

    @torch.no_grad()
    def observation(self) -> BiasObservation:
        """What was seen.

        Raises:
            RuntimeError: If there was not exactly one forward pass of one sample.
        """
        if self._weights is None or len(self._weights[0]) != 1:
            raise RuntimeError('BiasObserver needs one forward pass of one sample')
        head: Any = self.head
        num_layers = head.transformer.decoder.num_layers
        if len(self._layers) != num_layers:
            raise RuntimeError(
                f'BiasObserver saw {len(self._layers)} cross-attentions of {num_layers} layers: '
                'watch one forward pass at a time'
            )
        generator = head.attention_bias_generator
        points = head.reference_points.weight.clamp(0, 1)
        _, img_feats, img_metas = self._inputs
        has_images = bool(img_feats) and img_feats[0] is not None
        return BiasObservation(
            weights=torch.stack([weights[0] for weights in self._weights], dim=-1).float(),
            scales=generator.scale_of_modalities().expand(num_layers, 2),
            reference_points=denormalize_points(points, head.pc_range),
            detection_queries=head.decode_boxes(self._outputs)[0]['queries'],
            layers=tuple(self._layers),
            pad_shape=common_image_shape(img_metas[0]['pad_shape']) if has_images else None,
            pc_range=head.pc_range,
        )
