"""Watch the attention bias at work in one forward pass of a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from ..cmt.position_encoding import common_image_shape, denormalize_points
from ..metrics.attention_mass import PARTS, attention_mass, watch_attention
from ..ops import WindowedBias
from .scene import FloatArray

Result = TypeVar('Result')


@dataclass(frozen=True)
class ObservedBias:
    """The bias on the n queries of a sample's best detections, and the attention that it moves.

    ``mass`` is where their attention goes: layer, without and with the bias, :data:`PARTS`; the
    mean over the queries, NaN without any. Without the bias means: the layer gets what it gets in
    the biased decoder, and this layer's attention alone leaves the bias out. Layers before it keep
    theirs, so that the difference is what the bias does in this layer.
    """

    detections: InstanceData  # n, one of each query, best first, on the CPU
    choice: str  # which these are, in words
    queries: Tensor  # (n,) numbers of the queries
    weights: FloatArray  # (n, 2) trust in LiDAR and cameras, in [-1, 1]
    reference_points: FloatArray  # (n, 3) metres, LiDAR frame
    scales: FloatArray  # (L, 2) scale in effect of each decoder layer on LiDAR and cameras
    biases: tuple[WindowedBias, ...]  # on the logits of the n queries, of the L decoder layers
    mass: FloatArray  # (L, 2, 4)
    pad_shape: tuple[int, int] | None  # (H, W) of the padded images, pixels; None without cameras
    pc_range: tuple[float, ...]  # x_min, y_min, z_min, x_max, y_max, z_max of the BEV map, metres


@torch.no_grad()
def observe_bias(
    head: Any, forward: Callable[[], Result], score_thr: float, max_queries: int
) -> tuple[Result, ObservedBias]:
    """Watch a head with an attention bias through hooks; its results stay as they are.

    Keeps the projected queries and keys of every layer, some 60 MB a layer for 56,400 tokens.

    Args:
        head: An ``AttentionBiasCmtHead``.
        forward: Runs its model once, in evaluation mode, on one sample.
        score_thr: Detections below this score are left out.
        max_queries: At most so many queries, those of the best detections; of a query with
            several the best counts.

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
        result = forward()
    finally:
        for handle in handles:
            handle.remove()
    if len(passes) != 1 or len(trusts[0].strength) != 1:
        raise RuntimeError('observe_bias needs one forward pass of one sample')
    (((_, img_feats, img_metas), outputs),) = passes
    has_images = bool(img_feats) and img_feats[0] is not None

    # Both in the same order, the best first.
    found = head.predict_by_feat(outputs, img_metas)[0].to('cpu')
    queries = head.decode_boxes(outputs)[0]['queries'].cpu()
    reached = int((found.scores_3d >= score_thr).sum())
    first = np.unique(queries[:reached].numpy(), return_index=True)[1]
    chosen = np.sort(first)[:max_queries]
    queries = queries[chosen]
    count = f'{len(chosen)} quer{"y" if len(chosen) == 1 else "ies"} shown'
    biases = tuple(bias.of_queries(queries) for _, _, bias in layers)
    masses = [
        attention_mass(query[:, :, queries], key, bias)
        for (query, key, _), bias in zip(layers, biases, strict=True)
    ]
    points = denormalize_points(head.reference_points.weight.clamp(0, 1), head.pc_range)
    return result, ObservedBias(
        detections=found[chosen],
        choice=f'{count}, of {reached} detections with score ≥ {score_thr:g}',
        queries=queries,
        weights=_array(trusts[0].strength[0, queries]),
        reference_points=_array(points[queries]),
        scales=_array(generator.scale_of_modalities().expand(len(layers), 2)),
        biases=biases,
        mass=_array(torch.stack(masses)[:, :, 0].mean(dim=2)),
        pad_shape=common_image_shape(img_metas[0]['pad_shape']) if has_images else None,
        pc_range=tuple(head.pc_range),
    )


def mass_table(observed: ObservedBias) -> pd.DataFrame:
    """The mean shares of attention as a table: for each layer a row without and one with the bias.

    Columns: ``layer``, ``bias`` ('without', 'with'), ``queries`` (number of queries averaged), the
    sums ``lidar``, ``camera``, ``windows``, the four parts of :data:`PARTS` that they are made of,
    and the layer's ``lidar_scale`` and ``camera_scale``.
    """
    num_layers = len(observed.biases)
    shares = dict(zip(PARTS, observed.mass.reshape(-1, len(PARTS)).T, strict=True))
    lidar_scale, camera_scale = observed.scales.repeat(2, axis=0).T
    return pd.DataFrame(
        dict(
            layer=np.arange(num_layers).repeat(2),
            bias=['without', 'with'] * num_layers,
            queries=len(observed.detections),
            lidar=shares['lidar_windows'] + shares['lidar_elsewhere'],
            camera=shares['camera_windows'] + shares['camera_elsewhere'],
            windows=shares['lidar_windows'] + shares['camera_windows'],
            **shares,
            lidar_scale=lidar_scale,
            camera_scale=camera_scale,
        )
    )


def _array(tensor: Tensor) -> FloatArray:
    return tensor.cpu().double().numpy()
