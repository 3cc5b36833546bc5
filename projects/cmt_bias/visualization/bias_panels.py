"""The panels of a bias picture beside its maps: the queries, and where their attention goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .attention_mass import PARTS
from .bias_scene import BiasScene
from .scene_panels import draw_notice

MASS_COLOURS = ('#00796b', '#a9ddd5', '#f7dfab', '#d98700')
"""Of the parts of attention: the LiDAR's in teal, the cameras' in amber, windows darker."""

MASS_NAMES = ('LiDAR, in windows', 'LiDAR, elsewhere', 'cameras, elsewhere', 'cameras, in windows')

_STATES = ('no bias', 'bias')
_COLOUR_MAP = colormaps['coolwarm']


@dataclass(frozen=True)
class BiasColours:
    """What colour a bias has."""

    limit: float

    @property
    def mappable(self) -> ScalarMappable:
        """Colours by bias, for colour bars."""
        return ScalarMappable(CenteredNorm(0.0, self.limit), _COLOUR_MAP)

    def of(self, bias: float) -> tuple[float, float, float, float]:
        """RGBA of a bias in logits."""
        red, green, blue, alpha = self.mappable.to_rgba(np.array(bias))
        return float(red), float(green), float(blue), float(alpha)


def draw_queries(axes: Axes, bias_scene: BiasScene, colours: BiasColours) -> None:
    """A row for each shown query: class, score, distance; bias and weight of both sensors."""
    boxes = bias_scene.scene.detections
    if boxes is None or boxes.scores is None or len(boxes) == 0:
        draw_notice(axes, 'no detection')
        return
    rows = np.arange(len(boxes))
    names = []
    for row, (label, score) in enumerate(zip(boxes.labels, boxes.scores, strict=True)):
        name = bias_scene.scene.class_names[label].replace('_', ' ')
        name = name if len(name) <= 13 else f'{name[:12]}\N{HORIZONTAL ELLIPSIS}'
        distance = np.hypot(*boxes.boxes[row, :2])
        names.append(f'{row + 1}  {name} {score:.2f}, {distance:.0f} m')
    axes.axvline(0, color='#888888', linewidth=0.8)
    for column, marker in enumerate('os'):
        axes.scatter(
            bias_scene.bias[:, column],
            rows,
            marker=marker,
            s=34,
            c=[colours.of(bias) for bias in bias_scene.bias[:, column]],
            edgecolors='black',
            linewidths=0.7,
            zorder=3,
        )
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    limit = 1.12 * colours.limit
    axes.set_xlim(-limit, limit)
    for row, (lidar, camera) in enumerate(bias_scene.weights):
        text = f'{lidar:+.2f}  {camera:+.2f}'
        axes.text(1.05, row, text, transform=axes.get_yaxis_transform(), fontsize=8, va='center')
    axes.text(1.05, 1.015, 'weights: L, C', transform=axes.transAxes, fontsize=8, va='bottom')
    axes.set_title('bias of each query', fontsize=10)
    _style_panel(axes, 'bias (logit)')
    handles = [
        Line2D([], [], linestyle='', color='#555555', marker='o', label='LiDAR (L)'),
        Line2D([], [], linestyle='', color='#555555', marker='s', label='cameras (C)'),
    ]
    _draw_legend_below(axes, handles, (0.5, -0.11), handletextpad=0.2)


def draw_attention(axes: Axes, bias_scene: BiasScene) -> None:
    """Stacked bars for each layer, without and with the bias: shares of the parts of attention."""
    num_layers, _, num_queries, _ = bias_scene.mass.shape
    if num_queries == 0:
        draw_notice(axes, 'no detection')
        return
    shares = bias_scene.mass.mean(axis=2).reshape(2 * num_layers, len(PARTS))
    rows = np.repeat(np.arange(num_layers), 2) + np.tile([-0.2, 0.2], num_layers)
    starts = np.cumsum(shares, axis=1) - shares
    for part, colour in enumerate(MASS_COLOURS):
        axes.barh(rows, shares[:, part], left=starts[:, part], height=0.36, color=colour)
        for row, start, share in zip(rows, starts[:, part], shares[:, part], strict=True):
            if share >= 0.12:
                dark = part in (0, 3)
                axes.text(
                    start + share / 2,
                    row,
                    f'{share:.1%}',
                    fontsize=7.5,
                    color='white' if dark else '#333333',
                    ha='center',
                    va='center_baseline',
                )
    names = [f'layer {layer}, {name}' for layer in range(num_layers) for name in _STATES]
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(num_layers - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_title(f'where attention goes, mean of {count_queries(num_queries)}', fontsize=10)
    _style_panel(
        axes, 'share of attention, mean of all heads\n(no bias: left out of this layer alone)'
    )
    handles = [
        Patch(color=colour, label=name)
        for colour, name in zip(MASS_COLOURS, MASS_NAMES, strict=True)
    ]
    _draw_legend_below(axes, handles, (0.4, -0.145))


def _draw_legend_below(
    axes: Axes,
    handles: Sequence[Artist],
    anchor: tuple[float, float],
    handletextpad: float | None = None,
) -> None:
    """A legend of two columns whose upper edge is at ``anchor``, in shares of the panel."""
    axes.legend(
        handles=handles,
        loc='upper center',
        bbox_to_anchor=anchor,
        ncols=2,
        fontsize=8,
        frameon=False,
        handletextpad=handletextpad,
        columnspacing=1.0,
    )


def count_queries(number: int) -> str:
    """A number of queries in words."""
    return f'{number} quer{"y" if number == 1 else "ies"}'


def _style_panel(axes: Axes, label: str) -> None:
    axes.set_xlabel(label, fontsize=8, labelpad=2)
    axes.tick_params(axis='x', labelsize=8, length=2.5, pad=2)
    axes.tick_params(axis='y', length=0)
    axes.spines[['top', 'right']].set_visible(False)
