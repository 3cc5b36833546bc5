"""From an observed forward pass to the plain arrays that a picture of the bias shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ops import dense_bias
from .attention_mass import PARTS
from .bias_observer import BiasObservation
from .detection_scene import DetectionScene, LabelledBoxes
from .projection_geometry import FloatArray


@dataclass(frozen=True)
class BiasMap:
    """The bias of the shown queries on the cells of one map, a BEV map or one camera's.

    Attributes:
        values: (rows, columns), logits: of the windows that hold a cell, the bias that is largest
            in size; NaN where there is none.
        windows: (n, 4), the window of each query as first column, first row, column after the
            last and row after the last; all 0 for a query without a window in this map, and for
            all queries where the whole modality is the window.
    """

    values: FloatArray
    windows: NDArray[np.int64]


@dataclass(frozen=True)
class BiasScene:
    """All that one picture of the bias shows. Queries are in the order of falling scores.

    Attributes:
        scene: sensor data and titles; ``detections`` holds the n shown queries' best detections.
        num_detections: detections that reach the score threshold.
        reference_points: (n, 3) of the queries, metres, LiDAR frame.
        weights: (n, 2) trust in LiDAR and cameras, in [-1, 1].
        bias: (n, 2) scale times weight, logits, in the layer shown.
        scales: (L, 2) scale of each layer on LiDAR and cameras.
        layer: the layer shown.
        mass: (L, 2, n, 4) shares of attention, see :meth:`BiasObservation.attention_mass`.
        lidar: the BEV map; None without LiDAR.
        cameras: a map for each camera; empty without cameras.
        pad_shape: (H, W) of the padded images in pixels, which the camera maps cover.
        pc_range: range that the BEV map covers, metres.
        window_sizes: cells along the side of a LiDAR and of a camera window; None where the whole
            modality is the window.
    """

    scene: DetectionScene
    num_detections: int
    reference_points: FloatArray
    weights: FloatArray
    bias: FloatArray
    scales: FloatArray
    layer: int
    mass: FloatArray
    lidar: BiasMap | None
    cameras: Sequence[BiasMap]
    pad_shape: tuple[int, int] | None
    pc_range: Sequence[float]
    window_sizes: tuple[int | None, int | None]


def make_bias_scene(
    scene: DetectionScene,
    observation: BiasObservation,
    layer: int,
    score_thr: float,
    max_queries: int,
) -> BiasScene:
    """Choose the queries of the best detections, and collect what a picture shows of them.

    Args:
        scene: the sample, with the detections of the observed forward pass in their order.
        observation: what was seen in that pass.
        layer: number of the decoder layer, from 0.
        score_thr: detections below this score are left out.
        max_queries: at most so many queries; of a query with several detections the best counts.

    Returns:
        What to draw.

    Raises:
        ValueError: if the scene's detections are not those of the observation.
    """
    found = scene.detections
    queries = observation.detection_queries
    if found is None or found.scores is None or len(found) != len(queries):
        raise ValueError(
            f'the scene has {0 if found is None else len(found)} detections, the observed forward '
            f'pass {len(queries)}: make the scene from the result of that pass'
        )
    order = np.argsort(-found.scores, kind='stable')
    order = order[found.scores[order] >= score_thr]
    numbers = queries.cpu().numpy()[order]
    first = np.sort(np.unique(numbers, return_index=True)[1])[:max_queries]
    chosen = order[first]
    boxes = LabelledBoxes(found.boxes[chosen], found.labels[chosen], found.scores[chosen])
    shown = torch.as_tensor(numbers[first], device=queries.device)
    lidar, cameras = _bias_maps(observation, layer, shown)
    weights = _array(observation.weights[shown])
    return BiasScene(
        scene=replace(scene, detections=boxes, ground_truth=None),
        num_detections=len(order),
        reference_points=_array(observation.reference_points[shown]),
        weights=weights,
        bias=weights * _array(observation.scales[layer]),
        scales=_array(observation.scales),
        layer=layer,
        mass=_mass_of(observation, shown),
        lidar=lidar,
        cameras=cameras,
        pad_shape=observation.pad_shape,
        pc_range=observation.pc_range,
        window_sizes=(observation.windows.shapes[0].size, observation.windows.shapes[1].size),
    )


def _mass_of(observation: BiasObservation, shown: Tensor) -> FloatArray:
    if len(shown) == 0:
        return np.zeros((len(observation.layers), 2, 0, len(PARTS)))
    return _array(observation.attention_mass(shown))


def _array(tensor: Tensor) -> FloatArray:
    return tensor.detach().cpu().double().numpy()


def _bias_maps(
    observation: BiasObservation, layer: int, shown: Tensor
) -> tuple[BiasMap | None, list[BiasMap]]:
    """The maps of the LiDAR and of all cameras."""
    bias = observation.layers[layer].bias.of_queries(shown)
    values = _array(dense_bias(bias)[0])  # (n, K)
    inside = bias.windows.to_mask()[0].cpu().numpy()
    maps: tuple[list[BiasMap], list[BiasMap]] = ([], [])
    for start, rows, columns, modality in observation.layout.segments:
        keys, shape = slice(start, start + rows * columns), (len(shown), rows, columns)
        whole = bias.windows.shapes[modality].radius is None
        of_map = values[:, keys].reshape(shape), inside[:, keys].reshape(shape)
        maps[modality].append(_bias_map(of_map[0], of_map[1], whole))
    return (maps[0][0] if maps[0] else None), maps[1]


def _bias_map(dense: FloatArray, mask: NDArray[np.bool_], whole: bool) -> BiasMap:
    """A map of n queries' ``(n, rows, columns)`` biases and windows."""
    windows = np.zeros((len(dense), 4), dtype=np.int64)
    if len(dense) == 0:
        return BiasMap(np.full(dense.shape[1:], np.nan), windows)
    strongest = np.where(mask, np.abs(dense), -1.0).argmax(axis=0)[None]
    values = np.take_along_axis(dense, strongest, axis=0)[0]
    if not whole:
        for number, inside in enumerate(mask):
            rows, columns = inside.any(axis=1).nonzero()[0], inside.any(axis=0).nonzero()[0]
            if len(rows):
                windows[number] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return BiasMap(np.where(mask.any(axis=0), values, np.nan), windows)


def mass_table(bias_scene: BiasScene) -> pd.DataFrame:
    """The shares of attention as a table.

    Args:
        bias_scene: of :func:`make_bias_scene`.

    Returns:
        For each layer a row without and one with the bias: ``layer``, ``bias`` ('without',
        'with'), ``queries`` (number of queries averaged), the sums ``lidar``, ``camera``,
        ``windows``, the four parts of :data:`PARTS` that they are made of, and the layer's
        ``lidar_scale`` and ``camera_scale``. Shares are NaN where no query is shown.
    """
    num_layers, num_states, num_queries, _ = bias_scene.mass.shape
    if num_queries:
        shares = bias_scene.mass.mean(axis=2).reshape(-1, len(PARTS))
    else:
        shares = np.full((num_layers * num_states, len(PARTS)), np.nan)
    table = pd.DataFrame(shares, columns=list(PARTS))
    scales = bias_scene.scales.repeat(num_states, axis=0)
    front = {
        'layer': np.repeat(np.arange(num_layers), num_states),
        'bias': ['without', 'with'] * num_layers,
        'queries': num_queries,
        'lidar': table['lidar_windows'] + table['lidar_elsewhere'],
        'camera': table['camera_windows'] + table['camera_elsewhere'],
        'windows': table['lidar_windows'] + table['camera_windows'],
    }
    return table.assign(**front, lidar_scale=scales[:, 0], camera_scale=scales[:, 1])[
        [*front, *PARTS, 'lidar_scale', 'camera_scale']
    ]
