"""Picture of the attention bias of a sample: where it acts, how strongly, and what it moves."""

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .bias_panels import bias_maps, draw_attention, draw_map, draw_queries
from .observed_bias import ObservedBias
from .scene import FloatArray, Scene
from .scene_panels import (
    axes_in_inches,
    draw_bev_boxes,
    draw_birds_eye_view,
    draw_projected_boxes,
    new_picture,
)

_TIMES = '\N{MULTIPLICATION SIGN}'
# Inches: width of the cameras, height of what is below them, and left, bottom, width and height
# of each panel there.
_WIDTH = 13.94
_BELOW = 5.81
_BEV = (0.58, 0.58, 5.1, 5.1)
_COLOUR_BAR = (6.13, 5.26, 7.84, 0.15)
_QUERIES = (7.58, 1.08, 1.6, 3.6)
_ATTENTION = (11.13, 1.08, 2.84, 3.6)

_EXPLANATION = (
    "Numbers: at (below: beside) the queries' reference points; dotted lines lead to their boxes "
    '(white). Window colour: bias on cameras (images) or LiDAR (below), the strongest where '
    'windows overlap.'
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
    white = ['white'] * len(boxes)
    # From each query's reference point to the centre of its box: (n, 2, 3).
    links = np.stack([observed.reference_points, boxes.gravity_center.double().numpy()], axis=1)
    bare = replace(scene, detections=None, ground_truth=None)
    maps = bias_maps(observed.layers[layer].bias)
    bev_map = maps.pop(0) if observed.windows.layout.bev_shape else None

    lines = [scene.subtitle, *_captions(observed, layer), _EXPLANATION]
    figure, panels = new_picture(bare, lines, _WIDTH, _BELOW)
    if observed.pad_shape is not None:
        rows, columns = observed.pad_shape
        for view, axes, of_view in zip(scene.cameras, panels, maps, strict=True):
            draw_map(axes, of_view, (0, columns, 0, rows), colours)
            draw_projected_boxes(axes, view, boxes, white, line_width=0.7)
            pixels, visible = view.project(links)
            starts, seen = view.project(links[:, [0, 0]])
            starts[~seen] = np.nan
            _draw_queries(axes, pixels[visible], starts[:, 0], colours.to_rgba(bias[:, 1]))

    bev = axes_in_inches(figure, *_BEV)
    x_min, y_min, _, x_max, y_max, _ = observed.pc_range
    farthest = np.abs(links[..., :2]).max(initial=0.0)
    whole = float(np.abs([x_min, y_min, x_max, y_max]).max())
    draw_birds_eye_view(bev, bare, bev_range or min(whole, max(20.0, 1.1 * farthest)))
    if bev_map is not None:
        draw_map(bev, bev_map, (x_min, x_max, y_min, y_max), colours)
    draw_bev_boxes(bev, boxes, white)
    # Windows are small there: a number in the middle would hide its own.
    rgba = colours.to_rgba(bias[:, 0])
    _draw_queries(bev, links[..., :2], links[:, 0, :2], rgba, offset=12.0)

    bar = axes_in_inches(figure, *_COLOUR_BAR)
    figure.colorbar(colours, cax=bar, orientation='horizontal')
    bar.tick_params(labelsize=8, length=2.5, pad=2)
    bar.set_title(_COLOUR_BAR_TITLE, fontsize=9, pad=4)
    draw_queries(axes_in_inches(figure, *_QUERIES), scene, observed.weights, bias, colours)
    draw_attention(axes_in_inches(figure, *_ATTENTION), observed)
    return figure


def _draw_queries(
    axes: Axes, links: FloatArray, points: FloatArray, colours: FloatArray, offset: float = 0.0
) -> None:
    """Draw m links (m, 2, 2) to boxes, and numbers of n queries in circles of a colour each.

    Numbers stand at ``points`` (n, 2), ``offset`` times 1/72 inch up and right of them, unless
    the point is NaN or outside of the axes.
    """
    lines = LineCollection(list(links), colors='white', linewidths=0.8, linestyles=':', zorder=4)
    axes.add_collection(lines)
    for query in np.flatnonzero(~np.isnan(points[:, 0]))[::-1]:
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


def _captions(observed: ObservedBias, layer: int) -> list[str]:
    """Lines on layer and scales, and on the sizes of windows (cells) and of cells (m, pixels)."""
    which = f'shown: bias of decoder layer {layer} of 0 to {len(observed.layers) - 1}'
    scales = f'{observed.scales[0, 0]:.3g}, of all layers and both sensors'
    if np.ptp(observed.scales) != 0:
        columns = (', '.join(f'{value:.3g}' for value in column) for column in observed.scales.T)
        scales = 'of layer 0, 1, ...: LiDAR {}; cameras {}'.format(*columns)
    layout, windows = observed.windows.layout, []
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
            windows.append(f'{name} {size} cells of {cell}')
    return [f'{which}  |  bias scale {scales}', f'windows: {", ".join(windows)}']
