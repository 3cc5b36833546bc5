"""Picture of the attention bias of a sample: where it acts, how strongly, and what it moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .bias_map import bias_maps, draw_map
from .bias_panels import draw_attention, draw_queries
from .camera_view import BoolArray, FloatArray
from .observed_bias import ObservedBias
from .picture_layout import (
    MARGIN,
    add_camera_panels,
    axes_in_inches,
    cameras_height,
    draw_titles,
    new_figure,
)
from .scene import Scene
from .scene_panels import draw_bev_boxes, draw_birds_eye_view, draw_projected_boxes

_TIMES = '\N{MULTIPLICATION SIGN}'
# Inches.
_WIDTH = 14.2
_HEADER = 1.5
_BEV_SIDE = 5.1
_AXIS_LABELS = 0.45

_EXPLANATION = (
    "Numbers: at (below: beside) the queries' reference points; dotted lines lead to their boxes "
    '(white). '
    'Window colour: bias on cameras (images) or LiDAR (below), the strongest where windows '
    'overlap.'
)
_COLOUR_BAR_TITLE = (
    f'bias = scale {_TIMES} weight, in logits: +1 multiplies the odds that a token is attended to '
    'by 2.7, 0 (grey) leaves them alone'
)


def draw_bias(
    scene: Scene,
    observed: ObservedBias,
    layer: int,
    bev_range: float | None = None,
    colour_limit: float | None = None,
) -> Figure:
    """Draw the cameras, the bird's-eye view, the shown queries and their attention.

    Args:
        scene: the sample, with the detections of the queries.
        observed: what was seen of these queries, as :func:`best_queries` returns both.
        layer: number of the decoder layer whose bias is shown, from 0.
        bev_range: half the side of the bird's-eye view, metres; if None, as much of the BEV map
            as holds the shown queries.
        colour_limit: bias of the strongest colour, logits; if None, the largest that is shown,
            rounded up.
    """
    bias = observed.weights * observed.scales[layer]  # (n, 2)
    limit = colour_limit or MaxNLocator(2).tick_values(0.0, np.abs(bias).max(initial=0.1))[-1]
    colours = ScalarMappable(CenteredNorm(0.0, limit), 'coolwarm')
    assert scene.detections is not None
    boxes = scene.detections.bboxes_3d
    # From each query's reference point to the centre of its box: (n, 2, 3).
    links = np.stack([observed.reference_points, boxes.gravity_center.double().numpy()], axis=1)
    bare = replace(scene, detections=None, ground_truth=None)
    maps = bias_maps(observed.layers[layer].bias)
    bev_map = maps.pop(0) if observed.windows.layout.bev_shape else None

    below, across = MARGIN + _AXIS_LABELS + _BEV_SIDE + MARGIN, _WIDTH - 2 * MARGIN
    figure = new_figure(_WIDTH, below + cameras_height(scene.cameras, across) + _HEADER)
    panels = add_camera_panels(figure, bare, below, across)
    white = ['white'] * len(boxes)
    if observed.pad_shape is not None:
        rows, columns = observed.pad_shape
        for view, axes, of_view in zip(scene.cameras, panels, maps, strict=True):
            draw_map(axes, of_view, (0, columns, rows, 0), colours)
            draw_projected_boxes(axes, view, boxes, white, line_width=0.7)
            pixels, visible = view.project(links)
            starts, seen = view.project(links[:, [0, 0]])
            rgba = colours.to_rgba(bias[:, 1])
            _draw_queries(axes, pixels[visible], starts[:, 0], seen, rgba)

    left = bottom = MARGIN + _AXIS_LABELS
    bev = axes_in_inches(figure, left, bottom, _BEV_SIDE, _BEV_SIDE)
    x_min, y_min, _, x_max, y_max, _ = observed.pc_range
    farthest = np.abs(links[..., :2]).max(initial=0.0)
    whole = float(np.abs([x_min, y_min, x_max, y_max]).max())
    half_side = bev_range or min(whole, max(20.0, 1.1 * farthest))
    draw_birds_eye_view(bev, bare, half_side)
    if bev_map is not None:
        draw_map(bev, bev_map, (x_min, x_max, y_min, y_max), colours)
    draw_bev_boxes(bev, boxes, white)
    starts = links[:, 0, :2]
    seen = np.abs(starts).max(axis=1, initial=0.0) <= half_side
    # Windows are small there: a number in the middle would hide its own.
    _draw_queries(bev, links[..., :2], starts, seen, colours.to_rgba(bias[:, 0]), offset=12.0)

    queries, attention = _add_right_panels(figure, colours, left + _BEV_SIDE)
    draw_queries(queries, scene, observed.weights, bias, colours)
    draw_attention(attention, observed)
    which = f'shown: bias of decoder layer {layer} of 0 to {len(observed.layers) - 1}'
    scales = _scale_text(observed.scales)
    lines = [scene.subtitle, f'{which}  |  {scales}', _window_text(observed), _EXPLANATION]
    draw_titles(figure, scene.title, lines, _WIDTH)
    return figure


def _draw_queries(
    axes: Axes,
    links: FloatArray,
    points: FloatArray,
    shown: BoolArray,
    colours: FloatArray,
    offset: float = 0.0,
) -> None:
    """Draw m links (m, 2, 2) to boxes, and numbers of n queries in circles of a colour each.

    Numbers stand at ``points`` (n, 2), ``offset`` times 1/72 inch up and right of them.
    """
    lines = LineCollection(list(links), colors='white', linewidths=0.8, linestyles=':', zorder=4)
    axes.add_collection(lines)
    for query in np.flatnonzero(shown)[::-1]:
        colour = colours[query]
        circle = dict(boxstyle='circle,pad=0.2', facecolor=colour, edgecolor='black', lw=0.6)
        axes.annotate(
            str(query + 1),
            tuple(points[query]),
            xytext=(offset, offset),
            textcoords='offset points',
            color='black' if colour[:3] @ (0.299, 0.587, 0.114) > 0.5 else 'white',
            annotation_clip=True,
            bbox=circle,
            fontsize=6.5,
            ha='center',
            va='center',
            zorder=8,
        )


def _add_right_panels(
    figure: Figure, colours: ScalarMappable, bev_right: float
) -> tuple[Axes, Axes]:
    """Colour bar, and below it the axes of the list of queries and of their attention."""
    left, right = bev_right + 0.35, _WIDTH - MARGIN
    top = MARGIN + _AXIS_LABELS + _BEV_SIDE
    bar = axes_in_inches(figure, left + 0.1, top - 0.42, right - left - 0.2, 0.15)
    figure.colorbar(colours, cax=bar, orientation='horizontal')
    bar.tick_params(labelsize=8, length=2.5, pad=2)
    bar.set_title(_COLOUR_BAR_TITLE, fontsize=9, pad=4)
    bottom = MARGIN + 0.95
    height = top - 1.0 - bottom
    queries = axes_in_inches(figure, left + 1.55, bottom, 1.6, height)
    attention_left = left + 5.1
    width = right - attention_left - 0.1
    return queries, axes_in_inches(figure, attention_left, bottom, width, height)


def _scale_text(scales: FloatArray) -> str:
    """The scale in words: one number if all are the same."""
    if np.ptp(scales) == 0:
        return f'bias scale {scales[0, 0]:.3g}, of all layers and both sensors'
    lidar, cameras = (', '.join(f'{value:.3g}' for value in column) for column in scales.T)
    return f'bias scale of layer 0, 1, ...: LiDAR {lidar}; cameras {cameras}'


def _window_text(observed: ObservedBias) -> str:
    """Sizes of the windows in cells, and of the cells in metres and pixels."""
    layout, texts = observed.windows.layout, []
    lidar, cameras = observed.windows.shapes
    x_min, y_min, _, x_max, y_max, _ = observed.pc_range
    for name, window, cells, extent, unit in (
        ('LiDAR', lidar, layout.bev_shape, (y_max - y_min, x_max - x_min), 'm'),
        ('cameras', cameras, layout.view_shape, observed.pad_shape, 'px'),
    ):
        if cells is not None and extent is not None:
            size = 'all' if window.size is None else f'{window.size} {_TIMES} {window.size}'
            up, across = np.divide(extent, cells)
            cell = f'{across:.3g} {unit} {_TIMES} {up:.3g} {unit}'
            texts.append(f'{name} {size} cells of {cell}')
    return 'windows: ' + ', '.join(texts)
