"""Watch the attention bias at work in one forward pass of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..bias.attention_bias import AttentionBias
from ..cmt.position_encoding import common_image_shape, denormalize_points
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
    bias: AttentionBias


@dataclass(frozen=True)
class BiasObservation:
    """The bias of one sample, and the attention that it acts on.

    Attributes:
        weights: ``(Q, 2)`` trust in LiDAR and cameras, in [-1, 1].
        scales: ``(L, 2)`` scale in effect of each layer on LiDAR and cameras.
        reference_points: ``(Q, 3)`` metres, LiDAR frame.
        detection_queries: ``(n,)`` the query that each detection comes from.
        layers: The L decoder layers.
        bev_shape: ``(Hb, Wb)`` rows (along y) and columns (along x); None without LiDAR.
        camera_shape: ``(V, h, w)``; None without cameras.
        pad_shape: ``(H, W)`` of the padded images in pixels; None without cameras.
        pc_range: ``(x_min, y_min, z_min, x_max, y_max, z_max)`` of the BEV map, metres.
        window_sizes: Cells along the side of a LiDAR and of a camera window; None where the whole
            modality is the window.
    """

    weights: Tensor
    scales: Tensor
    reference_points: Tensor
    detection_queries: Tensor
    layers: Sequence[ObservedLayer]
    bev_shape: tuple[int, int] | None
    camera_shape: tuple[int, int, int] | None
    pad_shape: tuple[int, int] | None
    pc_range: Sequence[float]
    window_sizes: tuple[int | None, int | None]

    @property
    def num_lidar_tokens(self) -> int:
        """Tokens of the LiDAR, the first of the memory."""
        return 0 if self.bev_shape is None else math.prod(self.bev_shape)

    @property
    def num_tokens(self) -> int:
        """Tokens K of the memory."""
        return self.layers[0].key.shape[2]

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
                    layer.bias.for_queries(queries),
                    self.num_lidar_tokens,
                )[:, 0]
                for layer in self.layers
            ]
        )


class _RecordingBias:
    """Stands in for a bias: attends as it does, and keeps what it is given."""

    def __init__(self, bias: AttentionBias, layers: list[ObservedLayer]) -> None:
        self.bias = bias
        self.layers = layers

    def attend(self, query: Tensor, key: Tensor, value: Tensor, backend: str = 'auto') -> Tensor:
        self.layers.append(ObservedLayer(query, key, self.bias))
        return self.bias.attend(query, key, value, backend=backend)


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
            self._handles.append(hook(self._replace_bias, with_kwargs=True))
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

    def _replace_bias(
        self, attention: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        bias = _RecordingBias(kwargs['logit_bias'], self._layers)
        return args, dict(kwargs, logit_bias=bias)

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
        bev_shape, camera_shape, pad_shape = _map_shapes(*self._inputs)
        return BiasObservation(
            weights=torch.stack([weights[0] for weights in self._weights], dim=-1).float(),
            scales=generator.scale_of_modalities().expand(num_layers, 2),
            reference_points=denormalize_points(points, head.pc_range),
            detection_queries=head.decode_boxes(self._outputs)[0]['queries'],
            layers=tuple(self._layers),
            bev_shape=bev_shape,
            camera_shape=camera_shape,
            pad_shape=pad_shape,
            pc_range=head.pc_range,
            window_sizes=(generator.lidar_window.size, generator.camera_window.size),
        )


def _map_shapes(
    pts_feats: Sequence[Tensor | None] | None,
    img_feats: Sequence[Tensor | None] | None,
    img_metas: Sequence[dict],
) -> tuple[tuple[int, int] | None, tuple[int, int, int] | None, tuple[int, int] | None]:
    """Shapes of the BEV map, of the camera maps and of the padded images, from a head's inputs."""
    bev = pts_feats[0] if pts_feats else None
    camera = img_feats[0] if img_feats else None
    bev_shape = None if bev is None else (bev.shape[-2], bev.shape[-1])
    if camera is None:
        return bev_shape, None, None
    rows, columns = camera.shape[-2:]
    camera_shape = (len(img_metas[0]['lidar2img']), rows, columns)
    return bev_shape, camera_shape, common_image_shape(img_metas[0]['pad_shape'])
