"""The panels of a bias picture: maps of the bias, its queries, and where their attention goes."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch.nn.functional import pad

from ..metrics.attention_mass import PARTS
from ..ops import WindowedBias, dense_bias
from .observed_bias import ObservedBias
from .scene import FloatArray, Scene
from .scene_panels import class_name, draw_notice

PART_STYLES = {
    'LiDAR, in windows': ('#00796b', 'white'),
    'LiDAR, elsewhere': ('#a9ddd5', '#333333'),
    'cameras, elsewhere': ('#f7dfab', '#333333'),
    'cameras, in windows': ('#d98700', 'white'),
}
"""Names of the parts of attention -> colours of their bars, windows darker, and of the text."""


class BiasMap(NamedTuple):
    """The bias of n queries on the cells of one map, the BEV map or a camera's."""

    values: FloatArray
    """(rows, columns), logits: of the windows that hold a cell, the bias that is largest in size;
    NaN where there is none."""
    windows: NDArray[np.int64]
    """(m, 4), the windows in this map: first column, first row, column after the last and row
    after the last; none where the whole modality is the window."""


def bias_maps(bias: WindowedBias) -> list[BiasMap]:
    """The maps of a sample's queries, one for each segment of the tokens' layout."""
    # A row of zeros before those of the queries: what is the strongest where there is none.
    values = pad(dense_bias(bias)[0], (0, 0, 1, 0))
    strongest = values.gather(0, values.abs().argmax(dim=0, keepdim=True))[0]  # (K,)
    strongest[~bias.windows.to_mask()[0].any(dim=0)] = np.nan
    maps = []
    for number, (start, rows, columns, modality) in enumerate(bias.windows.layout.segments):
        of_map = strongest[start : start + rows * columns].view(rows, columns).cpu().numpy()
        radius = bias.windows.shapes[modality].radius
        windows = np.zeros((0, 4), dtype=np.int64)
        if radius is not None:
            middles = bias.windows.cells[0, :, number].flip(-1).long().cpu().numpy()
            first = np.maximum(middles - radius, 0)
            last = np.minimum(middles + radius + 1, (columns, rows))
            windows = np.hstack([first, last])[(first < last).all(axis=1)]
        maps.append(BiasMap(of_map, windows))
    return maps


def draw_map(
    axes: Axes,
    bias_map: BiasMap,
    extent: tuple[float, float, float, float],
    colours: ScalarMappable,
) -> None:
    """Colour the cells that have a bias, and outline each query's window.

    ``extent`` is the least and greatest abscissa and ordinate of the map, in axes with limits; its
    first row and column lie at the least.
    """
    axes.imshow(
        bias_map.values,
        cmap=colours.get_cmap(),
        norm=colours.norm,
        extent=extent,
        origin='lower',
        interpolation='nearest',
        # Under a bias on all cells the picture must stay visible.
        alpha=0.55 if len(bias_map.windows) else 0.25,
        zorder=1.5,
    )
    least, greatest = np.reshape(extent, (2, 2)).T
    cell = (greatest - least) / bias_map.values.shape[::-1]
    for window in bias_map.windows.reshape(-1, 2, 2):
        corner, end = least + window * cell
        outline = Rectangle(corner, *(end - corner), fill=False, ec='black', lw=0.6, zorder=1.6)
        axes.add_patch(outline)


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
        numbers = [f'{value:.1%}' if value >= 0.12 else '' for value in share]  # as there is room
        axes.bar_label(bars, numbers, label_type='center', fontsize=7.5, color=text_colour)
    names = [
        f'layer {layer}, {state}' for layer in range(num_layers) for state in ('no bias', 'bias')
    ]
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(num_layers - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_title('where attention goes, mean of queries', fontsize=10)
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
