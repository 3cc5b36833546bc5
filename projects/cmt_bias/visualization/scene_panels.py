"""The panels of a picture: cameras as on the vehicle and the bird's-eye view, with boxes.

Drawn with matplotlib's Agg canvas, without pyplot's global state: no display is needed and the
functions may run in any process or thread.
"""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from .scene import BOX_EDGES, FRONT_EDGES, CameraView, Scene

CAMERA_ROWS = (
    ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT'),
    ('CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT'),
)
"""Where nuScenes' six cameras stand in the picture, as seen from the vehicle."""

GAP = 0.05
"""Space between panels, inches."""
MARGIN = 0.13
"""Space around everything, inches."""

GROUND_TRUTH_COLOUR = '#3dff7c'
CLASS_COLOURS: dict[str, str] = {
    'car': '#ff9f1c',
    'truck': '#ff5252',
    'trailer': '#b48cff',
    'bus': '#ffe14d',
    'construction_vehicle': '#d9904f',
    'bicycle': '#ff8fd0',
    'motorcycle': '#f050ff',
    'pedestrian': '#4aa8ff',
    'traffic_cone': '#22e6f5',
    'barrier': '#d3dae6',
}
"""Bright colours, told apart on photos and dark ground; green is left to the ground truth."""

_BEV_GROUND, _BEV_LINES, _BEV_TEXT = '#11161d', '#3c4856', '#8d9aa9'


def new_picture(
    scene: Scene,
    lines: Sequence[str],
    cameras_width: float,
    below: float,
    square_beside: bool = False,
    plain: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Start a white figure with a scene's title, as much as fits, lines of text and the cameras.

    Below the cameras is an empty space of a height, and beside all this, if wanted, a square that
    is as high as the figure; lengths are in inches. ``plain``: see :func:`draw_camera`.

    Returns:
        The figure, and the axes of each camera with its image and boxes, or those of a notice.
    """
    places = camera_places([view.name for view in scene.cameras]) or [(0, 0)]
    shapes = [view.image.shape for view in scene.cameras] or [(9, 24)]
    num_rows, num_columns = np.max(places, axis=0) + 1
    across = (cameras_width + GAP) / num_columns
    up = (across - GAP) * max(shape[0] / shape[1] for shape in shapes) + GAP
    height = below + num_rows * up + 0.44 + 0.24 * len(lines)  # with the title
    width = cameras_width + (GAP + height if square_beside else 2 * MARGIN)
    figure = Figure(figsize=(width, height), dpi=130, facecolor='white')
    FigureCanvasAgg(figure)
    left, top = MARGIN / width, 1 - MARGIN / height
    length = int(cameras_width / 0.117)  # with that wide letters
    title = textwrap.shorten(scene.title, length, placeholder=' ...')
    figure.text(left, top, title, fontsize=14, fontweight='bold', va='top')
    style: dict[str, Any] = dict(fontsize=10, color='#444444', linespacing=1.95, va='top')
    figure.text(left, top - 0.3 / height, '\n'.join(lines), **style)
    panels = []
    for row, column in places:
        corner = MARGIN + column * across, below + (num_rows - 1 - row) * up
        panels.append(axes_in_inches(figure, *corner, across - GAP, up - GAP))
    for axes, view in zip(panels, scene.cameras, strict=False):  # none for the notice
        draw_camera(axes, scene, view, plain)
    if not scene.cameras:
        draw_notice(panels[0], 'no camera in this sample')
    return figure, panels


def camera_places(names: Sequence[str]) -> list[tuple[int, int]]:
    """Row and column of each camera: nuScenes' as in :data:`CAMERA_ROWS`, others in threes."""
    rows = [[name for name in row if name in names] for row in CAMERA_ROWS]
    places = {
        name: (row, column)
        for row, of_row in enumerate(filter(None, rows))
        for column, name in enumerate(of_row)
    }
    if len(places) == len(names):
        return [places[name] for name in names]
    return [divmod(number, 3) for number in range(len(names))]


def axes_in_inches(
    figure: Figure, left: float, bottom: float, width: float, height: float
) -> Axes:
    """Axes at a place from the figure's lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def class_style(label: int, class_names: Sequence[str]) -> tuple[str, str]:
    """The name of a class in words, ``other`` for a label without a name, and its colour.

    nuScenes' classes have those of :data:`CLASS_COLOURS`, others one of them by their position.
    """
    if not 0 <= label < len(class_names):
        return 'other', '#9aa4b2'
    name, others = class_names[label], tuple(CLASS_COLOURS.values())
    return name.replace('_', ' '), CLASS_COLOURS.get(name, others[label % len(others)])


def draw_camera(axes: Axes, scene: Scene, view: CameraView, plain: bool = False) -> None:
    """Draw one of a scene's images with the boxes in it, in axes of the image's pixels.

    Detections have the colours of their classes, names and scores. Annotations are dashed and of
    one colour; where there are no detections, named and in the colours of their classes. Front
    faces are bolder. ``plain`` boxes are white, thin and without a name.
    """
    height, width = view.image.shape[:2]
    axes.imshow(view.image, extent=(0, width, height, 0), interpolation='bilinear')
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for boxes, colours, dashed in _coloured_boxes(scene, plain):
        segments, visible = view.project_boxes(boxes)
        box_numbers, edge_numbers = np.nonzero(visible)
        widths = np.full(len(BOX_EDGES), 0.7 if dashed or plain else 1.3)
        widths[FRONT_EDGES] *= 1.7
        lines, line_widths = list(segments[visible]), widths[edge_numbers]
        # A dark line underneath all boxes keeps the colour readable on sky and white walls alike.
        dark: dict[str, Any] = dict(colors='black', alpha=0.45, zorder=2)
        axes.add_collection(LineCollection(lines, linewidths=line_widths + 1, **dark))
        coloured = LineCollection(
            lines,
            colors=[colours[number] for number in box_numbers],
            linewidths=line_widths,
            linestyles=[(0, (4, 2.5)) if dashed else 'solid'],
            zorder=4 if dashed else 3,  # a detection in its place is seen through the gaps
        )
        axes.add_collection(coloured)
    name = view.name.removeprefix('CAM_').replace('_', ' ')
    style: dict[str, Any] = dict(fontsize=9, fontweight='bold', color='white', va='top', zorder=10)
    box = dict(facecolor='black', edgecolor='none', alpha=0.65, pad=2.5)
    axes.text(0.008, 0.975, name, transform=axes.transAxes, **style, bbox=box)
    named = scene.ground_truth if scene.detections is None else scene.detections
    if named is not None and not plain:
        _draw_box_names(axes, view, named, scene.class_names)


def draw_birds_eye_view(axes: Axes, scene: Scene, bev_range: float, plain: bool = False) -> None:
    """Draw points, range rings, the ego vehicle, and outlines and headings of boxes from above.

    Axes are in metres of the LiDAR frame, from ``-bev_range`` to ``bev_range``. Annotations are
    dashed and thin, ``plain`` boxes white.
    """
    axes.set_facecolor(_BEV_GROUND)
    axes.set(xlim=(-bev_range, bev_range), ylim=(-bev_range, bev_range), aspect='equal')
    axes.set_xlabel('x (m), LiDAR frame', fontsize=8, labelpad=2)
    axes.set_ylabel('y (m), LiDAR frame', fontsize=8, labelpad=0)
    axes.tick_params(labelsize=7, length=2.5, pad=2)
    if scene.points is None:
        axes.text(0, -0.92 * bev_range, 'no LiDAR in this sample', color='white', ha='center')
    else:
        inside = scene.points[np.abs(scene.points[:, :2]).max(axis=1, initial=0.0) <= bev_range]
        x, y, z = inside[np.argsort(inside[:, 2], kind='stable'), :3].T  # higher over lower ones
        size = np.clip(40_000 / max(len(inside), 1), 0.35, 2.0)  # points squared
        colours: dict[str, Any] = dict(c=np.clip(z, -3.0, 2.0), cmap='bone', vmin=-5.0, vmax=4.5)
        axes.scatter(x, y, **colours, s=size, linewidths=0, zorder=2)
    _draw_rings_and_ego(axes, scene.cameras, bev_range)
    for boxes, box_colours, dashed in _coloured_boxes(scene, plain):
        corners = boxes.corners[..., :2].numpy()  # (N, 8, 2), 4-7 at the front
        middle, front = corners.mean(axis=1), corners[:, 4:].mean(axis=1)
        around = corners[:, [4, 0, 3, 7]].swapaxes(0, 1)
        lines = LineCollection(
            list(np.stack([middle, front, *around, front], axis=1)),
            colors=box_colours,
            linewidths=0.8 if dashed else 1.8,
            linestyles=[(0, (3, 2.2)) if dashed else 'solid'],
            zorder=5 if dashed else 4,
        )
        axes.add_collection(lines)


def _coloured_boxes(
    scene: Scene, plain: bool
) -> Iterator[tuple[LiDARInstance3DBoxes, list[str], bool]]:
    """Detections and annotations, their colours, and whether they are dashed."""
    for boxes, dashed in ((scene.detections, False), (scene.ground_truth, True)):
        if boxes is not None:
            labels = boxes.labels_3d.tolist()
            colours = [class_style(label, scene.class_names)[1] for label in labels]
            if plain:
                colours = ['white'] * len(boxes)
            elif dashed and scene.detections is not None:
                colours = [GROUND_TRUTH_COLOUR] * len(boxes)
            yield boxes.bboxes_3d, colours, dashed


def _draw_box_names(
    axes: Axes, view: CameraView, boxes: InstanceData, class_names: Sequence[str]
) -> None:
    """Name boxes above their upper left corner, the surest first, as far as there is room."""
    segments, visible = view.project_boxes(boxes.bboxes_3d)
    taken = [text.get_window_extent().padded(3.0) for text in axes.texts]
    box = dict(facecolor='black', edgecolor='none', alpha=0.55, pad=0.8)
    style: dict[str, Any] = dict(fontsize=7, va='bottom', bbox=box, zorder=6)
    scores = boxes.get('scores_3d')
    importance = -boxes.bboxes_3d.bev[:, :2].norm(dim=1) if scores is None else scores
    for number in importance.argsort(descending=True, stable=True).tolist():
        if not visible[number].any():
            continue
        name, colour = class_style(int(boxes.labels_3d[number]), class_names)
        name += '' if scores is None else f' {scores[number]:.2f}'
        left, top = segments[number][visible[number]].reshape(-1, 2).min(axis=0)
        text = axes.text(left, top, name, color=colour, **style)
        extent = text.get_window_extent()
        # back into the image
        extent = extent.translated(*np.minimum(0.0, np.subtract(axes.bbox.max, extent.max)))
        text.set_position(tuple(axes.transData.inverted().transform(extent.min)))
        if extent.count_overlaps(taken):
            text.remove()
        else:
            taken.append(extent)


def _draw_rings_and_ego(axes: Axes, cameras: Sequence[CameraView], bev_range: float) -> None:
    """Circles of equal range, and the sensor; the direction of travel if a front camera tells."""
    step = max(5.0, 5.0 * round(bev_range / 15.0))
    style: dict[str, Any] = dict(fontsize=7, color=_BEV_TEXT, ha='center', va='center', zorder=6)
    ground = dict(facecolor=_BEV_GROUND, edgecolor='none', pad=0.6)
    for radius in np.arange(step, 1.42 * bev_range, step):
        axes.add_patch(Circle((0, 0), radius, fill=False, color=_BEV_LINES, lw=0.7, zorder=1))
        across = radius * np.sqrt(0.5)
        if across < 0.95 * bev_range:
            axes.text(across, across, f'{radius:g} m', **style, bbox=ground)
    axes.plot(0, 0, marker='o', markersize=4.5, color='white', zorder=7)
    for view in cameras:
        if view.name == 'CAM_FRONT':
            ahead = view.lidar2img[2, :2]  # depth grows fastest along the third row
            tip = 0.075 * bev_range * ahead / np.linalg.norm(ahead)
            arrow = {'arrowstyle': '-|>', 'color': 'white', 'linewidth': 1.6}
            axes.annotate('', xy=tuple(tip), xytext=(0, 0), arrowprops=arrow, zorder=7)


def draw_notice(axes: Axes, text: str) -> None:
    """Fill an empty panel with a line of text."""
    axes.set_facecolor('#e9edf2')
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha='center', va='center', fontsize=14)
