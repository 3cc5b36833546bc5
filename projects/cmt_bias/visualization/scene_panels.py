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

from .scene import BOX_EDGES, FRONT_EDGES, CameraView, FloatArray, Scene

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
) -> tuple[Figure, list[Axes]]:
    """Start a white figure with a scene's title, as much as fits, lines of text and the cameras.

    Below the cameras is an empty space of a height, and beside all this, if wanted, a square that
    is as high as the figure; lengths are in inches.

    Returns:
        The figure, and the axes of each camera with its image and boxes, or those of a notice.
    """
    rows = camera_rows([view.name for view in scene.cameras]) or [[0]]
    shapes = [view.image.shape for view in scene.cameras] or [(9, 24)]
    across = (cameras_width + GAP) / max(map(len, rows))
    up = (across - GAP) * max(shape[0] / shape[1] for shape in shapes) + GAP
    height = below + len(rows) * up + 0.44 + 0.24 * len(lines)  # with the title
    width = cameras_width + (GAP + height if square_beside else 2 * MARGIN)
    figure = Figure(figsize=(width, height), dpi=130, facecolor='white')
    FigureCanvasAgg(figure)
    left, top = MARGIN / width, 1 - MARGIN / height
    length = int(cameras_width / 0.117)  # with that wide letters
    title = textwrap.shorten(scene.title, length, placeholder=' ...')
    figure.text(left, top, title, fontsize=14, fontweight='bold', va='top')
    style: dict[str, Any] = dict(fontsize=10, color='#444444', linespacing=1.95, va='top')
    figure.text(left, top - 0.3 / height, '\n'.join(lines), **style)
    places = {
        number: (MARGIN + column * across, below + row * up)
        for row, numbers in enumerate(reversed(rows))
        for column, number in enumerate(numbers)
    }
    panels = [
        axes_in_inches(figure, *places[number], across - GAP, up - GAP)
        for number in sorted(places)
    ]
    for axes, view in zip(panels, scene.cameras, strict=False):  # none for the notice
        draw_camera(axes, scene, view)
    if not scene.cameras:
        draw_notice(panels[0], 'no camera in this sample')
    return figure, panels


def camera_rows(names: Sequence[str]) -> list[list[int]]:
    """Numbers of nuScenes' cameras in :data:`CAMERA_ROWS`; of others as they come, in threes."""
    numbers = list(range(len(names)))
    known = [[names.index(name) for name in row if name in names] for row in CAMERA_ROWS]
    if sorted(number for row in known for number in row) == numbers:
        return [row for row in known if row]
    return [numbers[start : start + 3] for start in numbers[::3]]


def axes_in_inches(
    figure: Figure, left: float, bottom: float, width: float, height: float
) -> Axes:
    """Axes at a place from the figure's lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def class_colour(label: int, class_names: Sequence[str]) -> str:
    """The colour of a class: fixed by name for nuScenes' classes, else by its position."""
    if not 0 <= label < len(class_names):
        return '#9aa4b2'
    others = tuple(CLASS_COLOURS.values())
    return CLASS_COLOURS.get(class_names[label], others[label % len(others)])


def class_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a class in words; ``other`` for a label without a name."""
    return class_names[label].replace('_', ' ') if 0 <= label < len(class_names) else 'other'


def draw_camera(axes: Axes, scene: Scene, view: CameraView) -> None:
    """Draw one of a scene's images with the boxes in it, in axes of the image's pixels.

    Detections have the colours of their classes, names and scores. Annotations are dashed and of
    one colour; where there are no detections, named and in the colours of their classes.
    """
    height, width = view.image.shape[:2]
    axes.imshow(view.image, extent=(0, width, height, 0), interpolation='bilinear')
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for boxes, colours, dashed in _coloured_boxes(scene):
        draw_projected_boxes(axes, view, boxes, colours, dashed)
    name = view.name.removeprefix('CAM_').replace('_', ' ')
    style: dict[str, Any] = dict(fontsize=9, fontweight='bold', color='white', va='top', zorder=10)
    box = dict(facecolor='black', edgecolor='none', alpha=0.65, pad=2.5)
    axes.text(0.008, 0.975, name, transform=axes.transAxes, **style, bbox=box)
    named = scene.ground_truth if scene.detections is None else scene.detections
    if named is not None:
        _draw_box_names(axes, view, named, scene.class_names)


def draw_birds_eye_view(axes: Axes, scene: Scene, bev_range: float) -> None:
    """Draw points, range rings, the ego vehicle and boxes from above.

    Axes are in metres of the LiDAR frame, from ``-bev_range`` to ``bev_range``.
    """
    axes.set_facecolor(_BEV_GROUND)
    axes.set(xlim=(-bev_range, bev_range), ylim=(-bev_range, bev_range), aspect='equal')
    axes.set_xlabel('x (m), LiDAR frame', fontsize=8, labelpad=2)
    axes.set_ylabel('y (m), LiDAR frame', fontsize=8, labelpad=0)
    axes.tick_params(labelsize=7, length=2.5, pad=2)
    _draw_range_rings(axes, bev_range)
    if scene.points is None:
        axes.text(0, -0.92 * bev_range, 'no LiDAR in this sample', color='white', ha='center')
    else:
        _draw_points(axes, scene.points, bev_range)
    _draw_ego(axes, scene.cameras, bev_range)
    for boxes, colours, dashed in _coloured_boxes(scene):
        draw_bev_boxes(axes, boxes, colours, dashed)


def _coloured_boxes(scene: Scene) -> Iterator[tuple[LiDARInstance3DBoxes, list[str], bool]]:
    """Detections and annotations, their colours, and whether they are dashed."""
    for boxes, dashed in ((scene.detections, False), (scene.ground_truth, True)):
        if boxes is not None:
            labels = boxes.labels_3d.tolist()
            colours = [class_colour(label, scene.class_names) for label in labels]
            if dashed and scene.detections is not None:
                colours = [GROUND_TRUTH_COLOUR] * len(boxes)
            yield boxes.bboxes_3d, colours, dashed


def draw_projected_boxes(
    axes: Axes,
    view: CameraView,
    boxes: LiDARInstance3DBoxes,
    colours: Sequence[str],
    dashed: bool = False,
    line_width: float = 1.3,
) -> None:
    """Draw what a camera sees of N boxes of a colour each into axes of :func:`draw_camera`.

    Front faces are bolder. ``dashed`` boxes, annotations, have thin lines; ``line_width`` is that
    of the others, in points.
    """
    segments, visible = view.project_boxes(boxes)
    box_numbers, edge_numbers = np.nonzero(visible)
    widths = np.full(len(BOX_EDGES), 0.7 if dashed else line_width)
    widths[FRONT_EDGES] *= 1.7
    lines, line_widths = list(segments[visible]), widths[edge_numbers]
    # A dark line underneath all boxes keeps the colour readable on sky and white walls alike.
    dark = LineCollection(lines, colors='black', linewidths=line_widths + 1, alpha=0.45, zorder=2)
    coloured = LineCollection(
        lines,
        colors=[colours[number] for number in box_numbers],
        linewidths=line_widths,
        linestyles=[(0, (4, 2.5)) if dashed else 'solid'],
        zorder=4 if dashed else 3,  # a detection in its place is seen through the gaps
    )
    axes.add_collection(dark)
    axes.add_collection(coloured)


def draw_bev_boxes(
    axes: Axes, boxes: LiDARInstance3DBoxes, colours: Sequence[str], dashed: bool = False
) -> None:
    """Draw outlines and headings of boxes of a colour each; thin dashed ones for annotations."""
    corners = boxes.corners[..., :2].numpy()  # (N, 8, 2), 4-7 at the front
    middle, front = corners.mean(axis=1), corners[:, 4:].mean(axis=1)
    around = corners[:, [4, 0, 3, 7]].swapaxes(0, 1)
    lines = LineCollection(
        list(np.stack([middle, front, *around, front], axis=1)),
        colors=list(colours),
        linewidths=0.8 if dashed else 1.8,
        linestyles=[(0, (3, 2.2)) if dashed else 'solid'],
        zorder=5 if dashed else 4,
    )
    axes.add_collection(lines)


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
        label = int(boxes.labels_3d[number])
        name = class_name(label, class_names)
        name += '' if scores is None else f' {scores[number]:.2f}'
        left, top = segments[number][visible[number]].reshape(-1, 2).min(axis=0)
        text = axes.text(left, top, name, color=class_colour(label, class_names), **style)
        extent = text.get_window_extent()
        # back into the image
        extent = extent.translated(*np.minimum(0.0, np.subtract(axes.bbox.max, extent.max)))
        text.set_position(tuple(axes.transData.inverted().transform(extent.min)))
        if extent.count_overlaps(taken):
            text.remove()
        else:
            taken.append(extent)


def _draw_range_rings(axes: Axes, bev_range: float) -> None:
    step = max(5.0, 5.0 * round(bev_range / 15.0))
    for radius in np.arange(step, 1.42 * bev_range, step):
        axes.add_patch(Circle((0, 0), radius, fill=False, color=_BEV_LINES, lw=0.7, zorder=1))
        across = radius * np.sqrt(0.5)
        if across < 0.95 * bev_range:
            style: dict[str, Any] = dict(fontsize=7, color=_BEV_TEXT, ha='center', va='center')
            ground = dict(facecolor=_BEV_GROUND, edgecolor='none', pad=0.6)
            axes.text(across, across, f'{radius:g} m', **style, bbox=ground, zorder=6)


def _draw_points(axes: Axes, points: FloatArray, bev_range: float) -> None:
    inside = np.abs(points[:, :2]).max(axis=1, initial=0.0) <= bev_range
    kept = points[inside]
    x, y, z = kept[np.argsort(kept[:, 2], kind='stable'), :3].T  # higher points over lower ones
    size = np.clip(40_000 / max(len(kept), 1), 0.35, 2.0)  # points squared
    colours: dict[str, Any] = dict(c=np.clip(z, -3.0, 2.0), cmap='bone', vmin=-5.0, vmax=4.5)
    axes.scatter(x, y, **colours, s=size, linewidths=0, zorder=2)


def _draw_ego(axes: Axes, cameras: Sequence[CameraView], bev_range: float) -> None:
    """Mark the sensor's place and, where a front camera is known, the direction of travel."""
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
