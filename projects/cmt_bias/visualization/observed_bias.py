"""Watch the attention bias at work in one forward pass of a model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..cmt.position_encoding import common_image_shape, denormalize_points
from ..metrics.attention_mass import PARTS, attention_mass, watch_attention
from ..ops import QueryWindows, WindowedBias
from .scene import FloatArray, Scene

Result = TypeVar('Result')


class ObservedLayer(NamedTuple):
    """What the cross-attention of a decoder layer gets: n queries of one sample, all K keys."""

    query: Tensor  # (1, H, n, D) projected
    key: Tensor  # (1, H, K, D) projected
    bias: WindowedBias  # on its logits


@dataclass(frozen=True)
class ObservedBias:
    """The bias on the queries of a sample's n detections, and the attention that it acts on."""

    queries: Tensor  # (n,) number of each detection's query
    weights: FloatArray  # (n, 2) trust in LiDAR and cameras, in [-1, 1]
    reference_points: FloatArray  # (n, 3) metres, LiDAR frame
    scales: FloatArray  # (L, 2) scale in effect of each decoder layer on LiDAR and cameras
    layers: tuple[ObservedLayer, ...]  # of the L decoder layers
    pad_shape: tuple[int, int] | None  # (H, W) of the padded images, pixels; None without cameras
    pc_range: tuple[float, ...]  # x_min, y_min, z_min, x_max, y_max, z_max of the BEV map, metres

    @property
    def windows(self) -> QueryWindows:
        """The windows of the queries, the same in all layers."""
        return self.layers[0].bias.windows

    def of_detections(self, chosen: Tensor) -> 'ObservedBias':
        """The same for the detections of these numbers, ``(m,)``."""
        return replace(
            self,
            queries=self.queries[chosen],
            weights=self.weights[chosen.numpy()],
            reference_points=self.reference_points[chosen.numpy()],
            layers=tuple(
                ObservedLayer(query[:, :, chosen], key, bias.of_queries(chosen))
                for query, key, bias in self.layers
            ),
        )

    @cached_property
    def mass(self) -> FloatArray:
        """``(L, 2, 4)`` where attention goes: layer, without and with the bias, :data:`PARTS`.

        The mean over the detections, NaN without any. Without the bias means: the layer gets what
        it gets in the biased decoder, and this layer's attention alone leaves the bias out. Layers
        before it keep theirs, so that the difference is what the bias does in this layer.
        """
        masses = torch.stack([attention_mass(*layer) for layer in self.layers])
        return _array(masses[:, :, 0].mean(dim=2))


def observe_bias(head: Any, forward: Callable[[], Result]) -> tuple[Result, ObservedBias]:
    """Watch a head with an attention bias through hooks; its results stay as they are.

    Keeps the projected queries and keys of every layer, some 60 MB a layer for 56,400 tokens.

    Args:
        head: An ``AttentionBiasCmtHead``.
        forward: Runs its model once, in evaluation mode, on one sample.

    Returns:
        What ``forward`` returns, and what was seen.

    Raises:
        RuntimeError: If there was not exactly one forward pass of one sample.
    """
    passes: list[tuple] = []
    trusts: list[WindowedBias] = []
    layers: list[tuple] = []
    generator = head.attention_bias_generator
    handles = [
        head.register_forward_hook(lambda _, inputs, outputs: passes.append((inputs, outputs))),
        generator.register_forward_hook(lambda _, inputs, bias: trusts.append(inputs[0])),
        *watch_attention(head, lambda *layer: layers.append(layer)),
    ]
    try:
        with torch.no_grad():
            result = forward()
    finally:
        for handle in handles:
            handle.remove()
    if len(passes) != 1 or len(trusts[0].strength) != 1:
        raise RuntimeError('observe_bias needs one forward pass of one sample')
    (((_, img_feats, img_metas), outputs),) = passes
    has_images = bool(img_feats) and img_feats[0] is not None
    points = denormalize_points(head.reference_points.weight.clamp(0, 1), head.pc_range)
    queries = head.decode_boxes(outputs)[0]['queries']
    observed = ObservedBias(
        queries=torch.arange(len(points)),
        weights=_array(trusts[0].strength[0]),
        reference_points=_array(points),
        scales=_array(generator.scale_of_modalities().expand(len(layers), 2)),
        layers=tuple(map(ObservedLayer._make, layers)),
        pad_shape=common_image_shape(img_metas[0]['pad_shape']) if has_images else None,
        pc_range=tuple(head.pc_range),
    )
    return result, observed.of_detections(queries.cpu())


def best_queries(
    scene: Scene, observed: ObservedBias, score_thr: float, max_queries: int
) -> tuple[Scene, ObservedBias]:
    """Choose the queries of the best detections; of a query with several the best counts.

    Args:
        scene: The sample, with the detections of the observed forward pass in their order.
        observed: What was seen in that pass.
        score_thr: Detections below this score are left out.
        max_queries: At most so many queries.

    Returns:
        Both of the chosen detections alone, best first; the subtitle says how many there are.

    Raises:
        ValueError: If the scene's detections are not those of the observation.
    """
    found = scene.detections
    if found is None or len(found) != len(observed.queries):
        raise ValueError(
            'the detections are not those of the observed forward pass: make the scene from its '
            'result'
        )
    order = found.scores_3d.argsort(descending=True, stable=True)
    order = order[found.scores_3d[order] >= score_thr]
    first = np.unique(observed.queries[order].numpy(), return_index=True)[1]
    chosen = order[np.sort(first)[:max_queries]]
    count = f'{len(chosen)} quer{"y" if len(chosen) == 1 else "ies"} shown'
    shown = f'{count}, of {len(order)} detections with score ≥ {score_thr:g}'
    subtitle = '  |  '.join(filter(None, (scene.subtitle, shown)))
    scene = replace(scene, detections=found[chosen], ground_truth=None, subtitle=subtitle)
    return scene, observed.of_detections(chosen)


def mass_table(observed: ObservedBias) -> pd.DataFrame:
    """The mean shares of attention as a table.

    Returns:
        For each layer a row without and one with the bias: ``layer``, ``bias`` ('without',
        'with'), ``queries`` (number of queries averaged), the sums ``lidar``, ``camera``,
        ``windows``, the four parts of :data:`PARTS` that they are made of, and the layer's
        ``lidar_scale`` and ``camera_scale``. Shares are NaN where no query is shown.
    """
    num_layers = len(observed.layers)
    shares = dict(zip(PARTS, observed.mass.reshape(-1, len(PARTS)).T, strict=True))
    lidar_scale, camera_scale = observed.scales.repeat(2, axis=0).T
    return pd.DataFrame(
        dict(
            layer=np.arange(num_layers).repeat(2),
            bias=['without', 'with'] * num_layers,
            queries=len(observed.queries),
            lidar=shares['lidar_windows'] + shares['lidar_elsewhere'],
            camera=shares['camera_windows'] + shares['camera_elsewhere'],
            windows=shares['lidar_windows'] + shares['camera_windows'],
            **shares,
            lidar_scale=lidar_scale,
            camera_scale=camera_scale,
        )
    )


def _array(tensor: Tensor) -> FloatArray:
    return tensor.detach().cpu().double().numpy()
