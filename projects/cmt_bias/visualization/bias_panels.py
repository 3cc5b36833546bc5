"""The panels of a bias picture beside its maps: the queries, and where their attention goes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from ..metrics.attention_mass import PARTS
from .camera_view import FloatArray
from .observed_bias import ObservedBias, count_queries
from .scene import Scene
from .scene_panels import class_name, draw_notice

PART_STYLES = {
    'LiDAR, in windows': ('#00796b', 'white'),
    'LiDAR, elsewhere': ('#a9ddd5', '#333333'),
    'cameras, elsewhere': ('#f7dfab', '#333333'),
    'cameras, in windows': ('#d98700', 'white'),
}
"""Names of the parts of attention -> colours of their bars, windows darker, and of the text."""

_LABELLED_SHARE = 0.12
"""Of a bar that has room for its number."""


def draw_queries(
    axes: Axes, scene: Scene, weights: FloatArray, bias: FloatArray, colours: ScalarMappable
) -> None:
    """A row for each shown query: class, score, distance; bias and weight of both sensors.

    ``weights`` and ``bias``, in logits, are (n, 2), of LiDAR and cameras.
    """
    boxes = scene.detections
    if not boxes:
        draw_notice(axes, 'no detection')
        return
    rows = np.arange(len(boxes))
    distances = boxes.bboxes_3d.bev[:, :2].norm(dim=1)
    names = []
    for row, (label, score) in enumerate(zip(boxes.labels_3d, boxes.scores_3d, strict=True)):
        name = class_name(label, scene.class_names)
        name = name if len(name) <= 13 else f'{name[:12]}\N{HORIZONTAL ELLIPSIS}'
        names.append(f'{row + 1}  {name} {score:.2f}, {distances[row]:.0f} m')
        lidar, camera = weights[row]
        text = f'{lidar:+.2f}  {camera:+.2f}'
        axes.text(1.05, row, text, transform=axes.get_yaxis_transform(), fontsize=8, va='center')
    axes.text(1.05, 1.015, 'weights: L, C', transform=axes.transAxes, fontsize=8, va='bottom')
    axes.axvline(0, color='#888888', linewidth=0.8)
    style: dict[str, Any] = dict(edgecolors='black', linewidths=0.7, s=34, zorder=3)
    for name, marker, values in zip(('LiDAR (L)', 'cameras (C)'), 'os', bias.T, strict=True):
        axes.scatter(values, rows, marker=marker, c=colours.to_rgba(values), **style)
        axes.scatter([], [], marker=marker, c='#555555', label=name)
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    reach = 1.12 * max(colours.get_clim()[1], float(np.abs(bias).max()))
    axes.set_xlim(-reach, reach)
    axes.set_title('bias of each query', fontsize=10)
    _finish_panel(axes, 'bias (logit)', (0.5, -0.11))


def draw_attention(axes: Axes, observed: ObservedBias) -> None:
    """Stacked bars for each layer, without and with the bias: shares of the parts of attention."""
    if len(observed.queries) == 0:
        draw_notice(axes, 'no detection')
        return
    num_layers = len(observed.layers)
    shares = observed.mass.reshape(2 * num_layers, len(PARTS))
    rows = np.repeat(np.arange(num_layers), 2) + np.tile([-0.2, 0.2], num_layers)
    starts = np.cumsum(shares, axis=1) - shares
    for part, (name, (colour, text_colour)) in enumerate(PART_STYLES.items()):
        share = shares[:, part]
        bars = axes.barh(rows, share, 0.36, starts[:, part], color=colour, label=name)
        numbers = [f'{value:.1%}' if value >= _LABELLED_SHARE else '' for value in share]
        axes.bar_label(bars, numbers, label_type='center', fontsize=7.5, color=text_colour)
    names = [
        f'layer {layer}, {state}' for layer in range(num_layers) for state in ('no bias', 'bias')
    ]
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(num_layers - 0.5, -0.5)
    axes.set_xlim(0, 1)
    title = f'where attention goes, mean of {count_queries(len(observed.queries))}'
    axes.set_title(title, fontsize=10)
    label = 'share of attention, mean of all heads\n(no bias: left out of this layer alone)'
    _finish_panel(axes, label, (0.4, -0.145))


def _finish_panel(axes: Axes, label: str, anchor: tuple[float, float]) -> None:
    """Label the abscissa, and add a legend whose upper edge is at ``anchor`` of the panel."""
    axes.set_xlabel(label, fontsize=8, labelpad=2)
    axes.tick_params(axis='x', labelsize=8, length=2.5, pad=2)
    axes.tick_params(axis='y', length=0)
    axes.spines[['top', 'right']].set_visible(False)
    place: dict[str, Any] = dict(loc='upper center', bbox_to_anchor=anchor, ncols=2)
    axes.legend(fontsize=8, frameon=False, columnspacing=1.0, handletextpad=0.4, **place)
