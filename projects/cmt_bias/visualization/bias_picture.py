"""Drawing of the attention bias of one sample: where it acts, how strongly, and what it moves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .bias_panels import BiasColours, count_queries, draw_attention, draw_queries
from .bias_scene import BiasMap, BiasScene
from .detection_picture import PictureLayout, axes_in_inches, camera_panels
from .detection_scene import CameraView
from .projection_geometry import FloatArray, project_segments
from .scene_panels import (
    draw_bev_boxes,
    draw_birds_eye_view,
    draw_camera,
    draw_notice,
    draw_projected_boxes,
)

_BOX_COLOUR = 'white'
_WHOLE_OPACITY = 0.25  # of a bias on all cells, under which the picture must stay visible
_TIMES = '\N{MULTIPLICATION SIGN}'
_WIDTH = 14.2  # inches, as all lengths below
_MARGIN = 0.14
_HEADER = 1.5
_BEV_SIDE = 5.1
_AXIS_LABELS = 0.45
_CAMERAS = PictureLayout(cameras_width=_WIDTH - 2 * _MARGIN)


def draw_bias(
    bias_scene: BiasScene,
    score_thr: float = 0.3,
    bev_range: float | None = None,
    colour_limit: float | None = None,
) -> Figure:
    """Draw the cameras, the bird's-eye view, the shown queries and their attention.

    Args:
        bias_scene: what to draw.
        score_thr: the threshold that detections have reached, for the title.
        bev_range: half the side of the bird's-eye view, metres; if None, as much of the BEV map
            as holds the shown queries.
        colour_limit: bias of the strongest colour, logits; if None, the largest that is shown,
            rounded up.

    Returns:
        The figure; :func:`save_figure` writes it.

    Raises:
        ValueError: if ``bev_range`` or ``colour_limit`` is not positive.
    """
    if (bev_range is not None and bev_range <= 0) or (
        colour_limit is not None and colour_limit <= 0
    ):
        raise ValueError(
            'bev_range (metres) and colour_limit (logits) must be > 0, got '
            f'{bev_range} and {colour_limit}'
        )
    colours = BiasColours(
        colour_limit or _rounded_up(float(np.abs(bias_scene.bias).max(initial=0)))
    )
    panels, cameras_height = camera_panels(bias_scene.scene.cameras, _CAMERAS)
    below = _MARGIN + _AXIS_LABELS + _BEV_SIDE + _MARGIN
    height = below + cameras_height + _HEADER
    figure = Figure(figsize=(_WIDTH, height), dpi=_CAMERAS.dpi, facecolor='white')
    FigureCanvasAgg(figure)
    for view, left, bottom, width, panel_height in panels:
        axes = axes_in_inches(figure, _MARGIN + left, below + bottom, width, panel_height)
        if view is None:
            draw_notice(axes, 'no camera in this sample')
        else:
            _draw_camera_bias(axes, bias_scene, view, colours)
    bev_left = _MARGIN + _AXIS_LABELS
    bev = axes_in_inches(figure, bev_left, _MARGIN + _AXIS_LABELS, _BEV_SIDE, _BEV_SIDE)
    _draw_bev_bias(bev, bias_scene, colours, bev_range)
    _draw_right_panels(figure, bias_scene, colours, bev_left + _BEV_SIDE)
    _draw_titles(figure, bias_scene, score_thr)
    return figure


def _draw_camera_bias(
    axes: Axes, bias_scene: BiasScene, view: CameraView, colours: BiasColours
) -> None:
    """One camera with windows, boxes and numbers of the queries that it sees."""
    scene = bias_scene.scene
    draw_camera(axes, view, scene.class_names, None, None)
    if bias_scene.pad_shape is None or scene.detections is None:
        return
    height, width = bias_scene.pad_shape
    number = next(place for place, other in enumerate(scene.cameras) if other is view)
    alpha = _WHOLE_OPACITY if bias_scene.window_sizes[1] is None else 0.5
    _draw_map(axes, bias_scene.cameras[number], (0, width, height, 0), colours, alpha)
    boxes = scene.detections
    draw_projected_boxes(
        axes, view, boxes, [_BOX_COLOUR] * len(boxes), dashed=False, line_width=0.7
    )
    links, visible = project_segments(_links(bias_scene), view.lidar2img, view.size)
    _draw_links(axes, links[visible])
    starts = np.stack([bias_scene.reference_points] * 2, axis=1)
    points, visible = project_segments(starts, view.lidar2img, view.size)
    for query in np.flatnonzero(visible)[::-1]:
        _draw_number(axes, points[query, 0], query, colours.of(bias_scene.bias[query, 1]))


def _draw_bev_bias(
    axes: Axes, bias_scene: BiasScene, colours: BiasColours, bev_range: float | None
) -> None:
    """The bird's-eye view with windows, boxes and numbers of all queries."""
    x_min, y_min, _, x_max, y_max, _ = bias_scene.pc_range
    half_side = bev_range or _needed_range(bias_scene)
    draw_birds_eye_view(axes, bias_scene.scene, None, half_side)
    if bias_scene.lidar is not None:
        extent = (x_min, x_max, y_min, y_max)
        alpha = _WHOLE_OPACITY if bias_scene.window_sizes[0] is None else 0.85
        _draw_map(axes, bias_scene.lidar, extent, colours, alpha)
    boxes = bias_scene.scene.detections
    if boxes is None:
        return
    draw_bev_boxes(axes, boxes, [_BOX_COLOUR] * len(boxes), dashed=False)
    _draw_links(axes, _links(bias_scene)[..., :2])
    for query in range(len(boxes))[::-1]:
        point = bias_scene.reference_points[query, :2]
        if np.abs(point).max() <= half_side:
            colour = colours.of(bias_scene.bias[query, 0])
            _draw_number(axes, point, query, colour, _bev_number_offset(bias_scene, half_side))


def _needed_range(bias_scene: BiasScene) -> float:
    """Half the side of a bird's-eye view that holds the queries, metres; 20 m at least."""
    x_min, y_min, _, x_max, y_max, _ = bias_scene.pc_range
    farthest = np.abs(_links(bias_scene)[..., :2]).max(initial=0.0)
    whole_map = np.abs([x_min, y_min, x_max, y_max]).max()
    return float(min(whole_map, max(20.0, 1.1 * farthest)))


def _bev_number_offset(bias_scene: BiasScene, half_side: float) -> float:
    """How far up and right of a reference point its number stands, in points of 1/72 inch.

    A number would hide a small window, so it stands at the window's corner.
    """
    size = bias_scene.window_sizes[0]
    if bias_scene.lidar is None or size is None:
        return 0.0
    x_min, _, _, x_max, _, _ = bias_scene.pc_range
    metres = size * (x_max - x_min) / bias_scene.lidar.values.shape[1]
    half_window = 0.5 * metres / (2 * half_side) * _BEV_SIDE * 72
    return half_window + 5.0 if half_window < 14.0 else 0.0


def _draw_map(
    axes: Axes,
    bias_map: BiasMap,
    extent: tuple[float, float, float, float],
    colours: BiasColours,
    alpha: float,
) -> None:
    """Colour the cells that have a bias, and outline each query's window.

    Args:
        axes: where to draw.
        bias_map: cells and windows.
        extent: left, right, and the ordinates at the lower and upper edge of the picture; the
            map's first row lies at the smaller ordinate.
        colours: of biases.
        alpha: opacity of the cells.
    """
    left, right, low, high = extent
    axes.imshow(
        bias_map.values,
        cmap=colours.mappable.get_cmap(),
        norm=CenteredNorm(0.0, colours.limit),
        extent=extent,
        origin='lower' if low < high else 'upper',
        interpolation='nearest',
        alpha=alpha,
        zorder=1.5,
    )
    rows, columns = bias_map.values.shape
    cell_width, cell_height = (right - left) / columns, abs(high - low) / rows
    for first_column, first_row, last_column, last_row in bias_map.windows:
        corner = (left + first_column * cell_width, min(low, high) + first_row * cell_height)
        sides = (last_column - first_column) * cell_width, (last_row - first_row) * cell_height
        axes.add_patch(
            Rectangle(corner, *sides, fill=False, edgecolor='black', linewidth=0.6, zorder=1.6)
        )


def _links(bias_scene: BiasScene) -> FloatArray:
    """(n, 2, 3): from each query's reference point to the centre of its box, metres."""
    assert bias_scene.scene.detections is not None
    centres = bias_scene.scene.detections.boxes[:, :3].astype(float)
    centres[:, 2] += 0.5 * bias_scene.scene.detections.boxes[:, 5]
    return np.stack([bias_scene.reference_points, centres], axis=1)


def _draw_links(axes: Axes, links: FloatArray) -> None:
    axes.add_collection(
        LineCollection(list(links), colors=_BOX_COLOUR, linewidths=0.8, linestyles=':', zorder=4)
    )


def _draw_number(
    axes: Axes,
    point: FloatArray,
    query: int,
    colour: tuple[float, float, float, float],
    offset: float = 0.0,
) -> None:
    """A query's number at its reference point, in a circle of the colour of its bias."""
    brightness = np.dot(colour[:3], (0.299, 0.587, 0.114))
    axes.annotate(
        str(query + 1),
        (float(point[0]), float(point[1])),
        xytext=(offset, offset),
        textcoords='offset points',
        fontsize=6.5,
        color='black' if brightness > 0.5 else 'white',
        ha='center',
        va='center',
        annotation_clip=True,
        bbox={'boxstyle': 'circle,pad=0.2', 'facecolor': colour, 'edgecolor': 'black', 'lw': 0.6},
        zorder=8,
    )


def _draw_right_panels(
    figure: Figure, bias_scene: BiasScene, colours: BiasColours, bev_right: float
) -> None:
    """Colour bar, list of queries and attention, to the right of the bird's-eye view."""
    left, right = bev_right + 0.35, _WIDTH - _MARGIN
    top = _MARGIN + _AXIS_LABELS + _BEV_SIDE
    bar = axes_in_inches(figure, left + 0.1, top - 0.42, right - left - 0.2, 0.15)
    figure.colorbar(colours.mappable, cax=bar, orientation='horizontal')
    bar.tick_params(labelsize=8, length=2.5, pad=2)
    bar.set_title(
        f'bias = scale {_TIMES} weight, in logits: +1 multiplies the odds that a token is '
        'attended to by 2.7, 0 (grey) leaves them alone',
        fontsize=9,
        pad=4,
    )
    bottom = _MARGIN + 0.95
    panel_height = top - 1.0 - bottom
    queries = axes_in_inches(figure, left + 1.55, bottom, 1.6, panel_height)
    draw_queries(queries, bias_scene, colours)
    attention_left = left + 1.55 + 1.6 + 0.95 + 1.0
    attention = axes_in_inches(
        figure, attention_left, bottom, right - attention_left - 0.1, panel_height
    )
    draw_attention(attention, bias_scene)


def _draw_titles(figure: Figure, bias_scene: BiasScene, score_thr: float) -> None:
    """Scene; sample and detections; layer, scales and how to read the picture."""
    scene = bias_scene.scene
    num_layers = len(bias_scene.scales)
    shown = 0 if scene.detections is None else len(scene.detections)
    parts = [scene.subtitle] if scene.subtitle else []
    parts.append(
        f'{count_queries(shown)} shown, of {bias_scene.num_detections} detections with score '
        f'≥ {score_thr:g}'
    )
    layer = f'shown: bias of decoder layer {bias_scene.layer} of 0 to {num_layers - 1}'
    lines = [
        '  |  '.join(parts),
        f'{layer}  |  {_scale_text(bias_scene.scales)}',
        _window_text(bias_scene),
        'Numbers: at the reference points of the queries; dotted lines lead to their boxes '
        '(white). Window colour: bias on cameras (images) or LiDAR (below), the strongest where '
        'windows overlap.',
    ]
    _, height = figure.get_size_inches()
    left, top = _MARGIN / _WIDTH, 1 - 0.1 / height
    letters = int(_WIDTH * 72 / (0.6 * 14))
    title = textwrap.shorten(scene.title, letters, placeholder=' ...')
    figure.text(left, top, title, fontsize=14, fontweight='bold', va='top')
    for number, line in enumerate(lines):
        ordinate = top - (0.33 + 0.24 * number) / height
        figure.text(left, ordinate, line, fontsize=10, va='top', color='#444444')


def _scale_text(scales: FloatArray) -> str:
    """The scale in words: one number if all are the same, else as far as they differ."""
    if np.ptp(scales) == 0:
        return f'bias scale {scales[0, 0]:.3g}, of all layers and both sensors'
    columns = [('LiDAR ', scales[:, 0]), ('cameras ', scales[:, 1])]
    if (scales[:, 0] == scales[:, 1]).all():
        columns = [('', scales[:, 0])]
    texts = []
    for name, values in columns:
        if np.ptp(values) == 0:
            texts.append(f'{name}{values[0]:.3g}')
        else:
            texts.append(name + ', '.join(f'{value:.3g}' for value in values))
    by_layer = ' (layer 0, 1, ...)' if np.ptp(scales, axis=0).any() else ''
    return f'bias scale{by_layer}: ' + '; '.join(texts)


def _window_text(bias_scene: BiasScene) -> str:
    """Sizes of the windows in cells, and of the cells in metres and pixels."""
    lidar_size, camera_size = bias_scene.window_sizes
    texts = []
    if bias_scene.lidar is not None:
        rows, columns = bias_scene.lidar.values.shape
        x_min, y_min, _, x_max, y_max, _ = bias_scene.pc_range
        cell = f'{(x_max - x_min) / columns:.3g} m {_TIMES} {(y_max - y_min) / rows:.3g} m'
        texts.append(f'LiDAR {_cells(lidar_size)} of {cell}')
    if bias_scene.cameras and bias_scene.pad_shape is not None:
        rows, columns = bias_scene.cameras[0].values.shape
        height, width = bias_scene.pad_shape
        cell = f'{width / columns:.3g} px {_TIMES} {height / rows:.3g} px'
        texts.append(f'cameras {_cells(camera_size)} of {cell}')
    return 'windows: ' + ', '.join(texts)


def _cells(size: int | None) -> str:
    return 'all cells' if size is None else f'{size} {_TIMES} {size} cells'


def _rounded_up(value: float) -> float:
    """A round number that is not less, at least 0.1."""
    value = max(value, 0.1)
    power = 10.0 ** np.floor(np.log10(value))
    steps: Sequence[float] = (1, 1.5, 2, 3, 5, 7.5, 10)
    return float(next(step * power for step in steps if step * power >= value * (1 - 1e-9)))
