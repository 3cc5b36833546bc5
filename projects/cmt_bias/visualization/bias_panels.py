"""The panels of a bias picture beside its maps: the queries, and where their attention goes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..metrics.attention_mass import PARTS
from .camera_view import FloatArray
from .observed_bias import ObservedBias, count_queries
from .picture_layout import draw_notice
from .scene import Scene

MASS_COLOURS = ('#00796b', '#a9ddd5', '#f7dfab', '#d98700')
"""Of the parts of attention: the LiDAR's in teal, the cameras' in amber, windows darker."""

MASS_NAMES = ('LiDAR, in windows', 'LiDAR, elsewhere', 'cameras, elsewhere', 'cameras, in windows')

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
    for row, label, score, distance in zip(
        rows, boxes.labels_3d, boxes.scores_3d, distances, strict=True
    ):
        name = scene.class_names[label].replace('_', ' ')
        name = name if len(name) <= 13 else f'{name[:12]}\N{HORIZONTAL ELLIPSIS}'
        names.append(f'{row + 1}  {name} {score:.2f}, {distance:.0f} m')
    axes.axvline(0, color='#888888', linewidth=0.8)
    style: dict[str, Any] = dict(edgecolors='black', linewidths=0.7, s=34, zorder=3)
    for of_sensor, marker in zip(bias.T, 'os', strict=True):
        axes.scatter(of_sensor, rows, marker=marker, c=colours.to_rgba(of_sensor), **style)
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    reach = 1.12 * max(colours.get_clim()[1], float(np.abs(bias).max()))
    axes.set_xlim(-reach, reach)
    for row, (lidar, camera) in enumerate(weights):
        text = f'{lidar:+.2f}  {camera:+.2f}'
        axes.text(1.05, row, text, transform=axes.get_yaxis_transform(), fontsize=8, va='center')
    axes.text(1.05, 1.015, 'weights: L, C', transform=axes.transAxes, fontsize=8, va='bottom')
    axes.set_title('bias of each query', fontsize=10)
    handles = [
        Line2D([], [], linestyle='', color='#555555', marker=marker, label=name)
        for marker, name in (('o', 'LiDAR (L)'), ('s', 'cameras (C)'))
    ]
    _finish_panel(axes, 'bias (logit)', handles, (0.5, -0.11), handletextpad=0.2)


def draw_attention(axes: Axes, observed: ObservedBias) -> None:
    """Stacked bars for each layer, without and with the bias: shares of the parts of attention."""
    if len(observed.queries) == 0:
        draw_notice(axes, 'no detection')
        return
    num_layers = len(observed.layers)
    shares = observed.mass.reshape(2 * num_layers, len(PARTS))
    rows = np.repeat(np.arange(num_layers), 2) + np.tile([-0.2, 0.2], num_layers)
    starts = np.cumsum(shares, axis=1) - shares
    for part, colour in enumerate(MASS_COLOURS):
        bars = axes.barh(rows, shares[:, part], left=starts[:, part], height=0.36, color=colour)
        numbers = [f'{share:.1%}' if share >= _LABELLED_SHARE else '' for share in shares[:, part]]
        text_colour = 'white' if part in (0, 3) else '#333333'
        axes.bar_label(bars, numbers, label_type='center', fontsize=7.5, color=text_colour)
    states = ('no bias', 'bias')
    names = [f'layer {layer}, {name}' for layer in range(num_layers) for name in states]
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(num_layers - 0.5, -0.5)
    axes.set_xlim(0, 1)
    title = f'where attention goes, mean of {count_queries(len(observed.queries))}'
    axes.set_title(title, fontsize=10)
    parts = zip(MASS_COLOURS, MASS_NAMES, strict=True)
    handles = [Patch(color=colour, label=name) for colour, name in parts]
    label = 'share of attention, mean of all heads\n(no bias: left out of this layer alone)'
    _finish_panel(axes, label, handles, (0.4, -0.145))


def _finish_panel(
    axes: Axes, label: str, handles: list[Any], anchor: tuple[float, float], **legend: Any
) -> None:
    """Label the abscissa, and add a legend whose upper edge is at ``anchor`` of the panel."""
    axes.set_xlabel(label, fontsize=8, labelpad=2)
    axes.tick_params(axis='x', labelsize=8, length=2.5, pad=2)
    axes.tick_params(axis='y', length=0)
    axes.spines[['top', 'right']].set_visible(False)
    place: dict[str, Any] = dict(loc='upper center', bbox_to_anchor=anchor, ncols=2)
    axes.legend(handles=handles, fontsize=8, frameon=False, columnspacing=1.0, **place, **legend)
