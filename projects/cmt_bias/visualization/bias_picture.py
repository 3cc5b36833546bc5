"""Picture of the attention bias of a sample: where it acts, how strongly, and what it moves."""

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch.nn.functional import pad

from ..metrics.attention_mass import PARTS
from ..ops import WindowedBias, dense_bias
from .observed_bias import ObservedBias
from .scene import FloatArray, Scene
from .scene_panels import (
    axes_in_inches,
    class_style,
    draw_birds_eye_view,
    draw_notice,
    new_picture,
)

# Inches: width of the cameras, height of what is below them, and left, bottom, width and height
# of each panel there.
_WIDTH = 13.94
_BELOW = 5.81
_BEV = (0.58, 0.58, 5.1, 5.1)
_COLOUR_BAR = (6.13, 5.26, 7.84, 0.15)
_QUERIES = (7.58, 1.08, 1.6, 3.6)
_ATTENTION = (11.13, 1.08, 2.84, 3.6)

_TIMES = '\N{MULTIPLICATION SIGN}'
_EXPLANATION = (
    "Numbers: at (below: beside) the queries' reference points; dotted lines lead to their boxes "
    '(white). Window colour: bias on cameras (images) or LiDAR (below), the strongest where '
    'windows overlap.'
)
_COLOUR_BAR_TITLE = (
    f'bias = scale {_TIMES} weight, in logits: +1 multiplies the odds that a token is attended to '
    'by 2.7, 0 (grey) leaves them alone'
)
# PARTS in words -> colours of their bars, windows darker, and of the text.
_PART_STYLES = {
    'LiDAR, in windows': ('#00796b', 'white'),
    'LiDAR, elsewhere': ('#a9ddd5', '#333333'),
    'cameras, elsewhere': ('#f7dfab', '#333333'),
    'cameras, in windows': ('#d98700', 'white'),
}


def draw_bias(
    scene: Scene,
    observed: ObservedBias,
    layer: int,
    bev_range: float | None = None,
    colour_limit: float | None = None,
) -> Figure:
    """Draw the cameras, the bird's-eye view, the shown queries and their attention.

    Args:
        scene: the sample; of its boxes only those of ``observed`` are drawn.
        observed: what was seen in a forward pass of it.
        layer: number of the decoder layer whose bias is shown, from 0.
        bev_range: half the side of the bird's-eye view, metres; if None, as much of the BEV map
            as holds the shown queries.
        colour_limit: bias of the strongest colour, logits; if None, the largest that is shown,
            rounded up.
    """
    bias = observed.weights * observed.scales[layer]  # (n, 2)
    limit = colour_limit or MaxNLocator(2).tick_values(0.0, np.abs(bias).max(initial=0.1))[-1]
    colours = ScalarMappable(CenteredNorm(0.0, limit), 'coolwarm')
    boxes = observed.detections.bboxes_3d
    # From each query's reference point to the centre of its box: (n, 2, 3).
    links = np.stack([observed.reference_points, boxes.gravity_center.double().numpy()], axis=1)
    scene = replace(scene, detections=observed.detections, ground_truth=None)
    of_layer = observed.biases[layer]
    layout = of_layer.windows.layout

    first = '  |  '.join(filter(None, (scene.subtitle, observed.choice)))
    lines = [first, *_captions(observed, layer), _EXPLANATION]
    figure, panels = new_picture(scene, lines, _WIDTH, _BELOW, plain=True)
    if observed.pad_shape is not None:
        height, width = observed.pad_shape
        maps = range(bool(layout.bev_shape), len(layout.segments))
        for number, view, axes in zip(maps, scene.cameras, panels, strict=True):
            draw_map(axes, of_layer, number, (0, width, 0, height), colours)
            pixels, visible = view.project(links)
            starts, seen = view.project(links[:, [0, 0]])
            starts[~seen] = np.nan
            _draw_numbers(axes, pixels[visible], starts[:, 0], colours.to_rgba(bias[:, 1]))

    bev = axes_in_inches(figure, *_BEV)
    x_min, y_min, _, x_max, y_max, _ = observed.pc_range
    farthest = np.abs(links[..., :2]).max(initial=0.0)
    whole = float(np.abs([x_min, y_min, x_max, y_max]).max())
    draw_birds_eye_view(bev, scene, bev_range or min(whole, max(20.0, 1.1 * farthest)), True)
    if layout.bev_shape:
        draw_map(bev, of_layer, 0, (x_min, x_max, y_min, y_max), colours)
    # Windows are small there: a number in the middle would hide its own.
    rgba = colours.to_rgba(bias[:, 0])
    _draw_numbers(bev, links[..., :2], links[:, 0, :2], rgba, offset=12.0)

    bar = axes_in_inches(figure, *_COLOUR_BAR)
    figure.colorbar(colours, cax=bar, orientation='horizontal')
    bar.tick_params(labelsize=8, length=2.5, pad=2)
    bar.set_title(_COLOUR_BAR_TITLE, fontsize=9, pad=4)
    queries, attention = (axes_in_inches(figure, *place) for place in (_QUERIES, _ATTENTION))
    if len(boxes):
        _draw_queries(queries, scene, observed.weights, bias, colours)
        _draw_attention(attention, observed.mass)
    else:
        draw_notice(queries, 'no detection')
        draw_notice(attention, 'no detection')
    return figure


def draw_map(
    axes: Axes,
    bias: WindowedBias,
    number: int,
    extent: tuple[float, float, float, float],
    colours: ScalarMappable,
) -> None:
    """Colour the cells of a map that have a bias, and outline each query's window in it.

    A cell has, of the windows that hold it, the bias that is largest in size. ``number`` is that
    of the map, the BEV map or a camera's, among the segments of the tokens' layout; ``extent`` its
    least and greatest abscissa and ordinate in axes with limits. Its first row and column lie at
    the least.
    """
    start, rows, columns, modality = bias.windows.layout.segments[number]
    cells = slice(start, start + rows * columns)
    radius = bias.windows.shapes[modality].radius
    # A row of zeros before those of the queries: what is the strongest where there is none.
    values = pad(dense_bias(bias)[0, :, cells], (0, 0, 1, 0))
    strongest = values.gather(0, values.abs().argmax(dim=0, keepdim=True))[0]
    strongest[~bias.windows.to_mask()[0, :, cells].any(dim=0)] = np.nan
    axes.imshow(
        strongest.view(rows, columns).cpu().numpy(),
        cmap=colours.get_cmap(),
        norm=colours.norm,
        extent=extent,
        origin='lower',
        interpolation='nearest',
        # Under a bias on all cells the picture must stay visible.
        alpha=0.25 if radius is None else 0.55,
        zorder=1.5,
    )
    if radius is None:
        return
    middles = bias.windows.cells[0, :, number].flip(-1).long().cpu().numpy()
    borders = np.clip([middles - radius, middles + radius + 1], 0, (columns, rows))
    least, greatest = np.reshape(extent, (2, 2)).T
    corners, ends = least + borders * (greatest - least) / (columns, rows)
    for corner, size in zip(corners, ends - corners, strict=True):
        if (size > 0).all():
            axes.add_patch(Rectangle(corner, *size, fill=False, ec='black', lw=0.6, zorder=1.6))


def _draw_numbers(
    axes: Axes, links: FloatArray, points: FloatArray, colours: FloatArray, offset: float = 0.0
) -> None:
    """Draw m links (m, 2, 2) to boxes, and numbers of n queries in circles of a colour each.

    Numbers stand at ``points`` (n, 2), ``offset`` times 1/72 inch up and right of them, unless
    the point is NaN or outside of the axes.
    """
    lines = LineCollection(list(links), colors='white', linewidths=0.8, linestyles=':', zorder=4)
    axes.add_collection(lines)
    style: dict[str, Any] = dict(fontsize=6.5, ha='center', va='center', zorder=8)
    for query in np.flatnonzero(~np.isnan(points[:, 0]))[::-1]:
        colour = colours[query]
        axes.annotate(
            str(query + 1),
            tuple(points[query]),
            xytext=(offset, offset),
            textcoords='offset points',
            color='black' if colour[:3] @ (0.299, 0.587, 0.114) > 0.5 else 'white',
            annotation_clip=True,
            bbox=dict(boxstyle='circle,pad=0.2', facecolor=colour, edgecolor='black', lw=0.6),
            **style,
        )


def _draw_queries(
    axes: Axes, scene: Scene, weights: FloatArray, bias: FloatArray, colours: ScalarMappable
) -> None:
    """A row for each query: class, score, distance; (n, 2) weights and bias of both sensors."""
    boxes = scene.detections
    assert boxes is not None
    rows = np.arange(len(boxes))
    distances = boxes.bboxes_3d.bev[:, :2].norm(dim=1)
    names = []
    for row, (label, score) in enumerate(zip(boxes.labels_3d, boxes.scores_3d, strict=True)):
        name, _ = class_style(int(label), scene.class_names)
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


def _draw_attention(axes: Axes, mass: FloatArray) -> None:
    """Stacked bars for each layer, without and with the bias: shares of the parts of attention."""
    num_layers = len(mass)
    shares = mass.reshape(2 * num_layers, len(PARTS))
    rows = np.repeat(np.arange(num_layers), 2) + np.tile([-0.2, 0.2], num_layers)
    starts = np.cumsum(shares, axis=1) - shares
    for part, (name, (colour, text_colour)) in enumerate(_PART_STYLES.items()):
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


def _captions(observed: ObservedBias, layer: int) -> list[str]:
    """Lines on layer and scales, and on the sizes of windows (cells) and of cells (m, pixels)."""
    which = f'shown: bias of decoder layer {layer} of 0 to {len(observed.biases) - 1}'
    scales = f'{observed.scales[0, 0]:.3g}, of all layers and both sensors'
    if np.ptp(observed.scales) != 0:
        columns = (', '.join(f'{value:.3g}' for value in column) for column in observed.scales.T)
        scales = 'of layer 0, 1, ...: LiDAR {}; cameras {}'.format(*columns)
    windows, sizes = observed.biases[layer].windows, []
    (lidar, cameras), layout = windows.shapes, windows.layout
    x_min, y_min, _, x_max, y_max, _ = observed.pc_range
    for name, window, cells, extent, unit in (
        ('LiDAR', lidar, layout.bev_shape, (y_max - y_min, x_max - x_min), 'm'),
        ('cameras', cameras, layout.view_shape, observed.pad_shape, 'px'),
    ):
        if cells and extent:
            size = 'all' if window.size is None else f'{window.size} {_TIMES} {window.size}'
            up, across = np.divide(extent, cells)
            cell = f'{across:.3g} {unit} {_TIMES} {up:.3g} {unit}'
            sizes.append(f'{name} {size} cells of {cell}')
    return [f'{which}  |  bias scale {scales}', f'windows: {", ".join(sizes)}']
