"""Drawing of one sample: its cameras and the bird's-eye view with annotated and detected boxes.

Drawn with matplotlib's Agg canvas, without pyplot's global state: no display is needed and the
functions may run in any process or thread.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from cmt_bias.atomic_file import write_atomically

from .detection_scene import CameraView, DetectionScene, LabelledBoxes
from .projection_geometry import (
    FRONT_FACE_EDGES,
    FloatArray,
    bev_headings,
    bev_outlines,
    camera_centre_and_axis,
    project_boxes,
)

CAMERA_ROWS: tuple[tuple[str, ...], ...] = (
    ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT'),
    ('CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT'),
)
"""Where nuScenes' six cameras stand in the picture, as seen from the vehicle."""

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

_OTHER_COLOURS = tuple(CLASS_COLOURS.values())
_UNKNOWN_COLOUR = '#9aa4b2'
_BEV_GROUND = '#11161d'
_BEV_LINES = '#3c4856'
_BEV_TEXT = '#8d9aa9'
_LABEL_FONT_SIZE = 7.0


@dataclass(frozen=True)
class PictureLayout:
    """Sizes of a picture, in inches unless said otherwise.

    Attributes:
        cameras_width: width of all the camera panels of a row together.
        gap: space between panels.
        margin: space around everything.
        header: height of the two title lines.
        legend: height of the legend below the cameras.
        axis_labels: space for numbers and names left of and below the bird's-eye view.
        dpi: dots per inch of the saved picture.
    """

    cameras_width: float = 12.1
    gap: float = 0.05
    margin: float = 0.12
    header: float = 0.6
    legend: float = 0.78
    axis_labels: float = 0.5
    dpi: int = 130


DEFAULT_LAYOUT = PictureLayout()


def draw_scene(
    scene: DetectionScene,
    score_thr: float = 0.3,
    bev_range: float = 55.0,
    layout: PictureLayout = DEFAULT_LAYOUT,
) -> Figure:
    """Draw cameras on the left, the legend below them, and the bird's-eye view on the right.

    Args:
        scene: what to draw.
        score_thr: detections below this score are left out.
        bev_range: half the side of the bird's-eye view, metres.
        layout: sizes of the parts.

    Returns:
        The figure; :func:`save_figure` writes it.

    Raises:
        ValueError: if ``bev_range`` is not positive.
    """
    if bev_range <= 0:
        raise ValueError(f'bev_range is half a side in metres and must be > 0, got {bev_range}')
    detections = scene.detections and scene.detections.with_score_at_least(score_thr)
    panels, cameras_height = camera_panels(scene.cameras, layout)
    height = 2 * layout.margin + layout.header + cameras_height + layout.legend
    bev_side = height - 2 * layout.margin - layout.axis_labels
    bev_left = layout.margin + layout.cameras_width + layout.gap + layout.axis_labels
    width = bev_left + bev_side + layout.margin

    figure = Figure(figsize=(width, height), dpi=layout.dpi, facecolor='white')
    FigureCanvasAgg(figure)
    cameras_bottom = layout.margin + layout.legend
    for view, left, bottom, panel_width, panel_height in panels:
        axes = axes_in_inches(
            figure, layout.margin + left, cameras_bottom + bottom, panel_width, panel_height
        )
        if view is None:
            draw_notice(axes, 'no camera in this sample')
        else:
            draw_camera(axes, view, scene.class_names, scene.ground_truth, detections)
    bev_bottom = layout.margin + layout.axis_labels
    bev_axes = axes_in_inches(figure, bev_left, bev_bottom, bev_side, bev_side)
    draw_birds_eye_view(bev_axes, scene, detections, bev_range)
    legend_axes = axes_in_inches(
        figure, layout.margin, layout.margin, layout.cameras_width, layout.legend - layout.gap
    )
    _draw_legend(legend_axes, scene, detections)
    _draw_titles(figure, scene, detections, score_thr, layout)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG; a half-written file never stands under the final name.

    Args:
        figure: from :func:`draw_scene`.
        path: the file; its folder is made if need be.

    Returns:
        The path.
    """
    content = io.BytesIO()
    figure.savefig(content, format='png')
    write_atomically(path, content.getvalue())
    return Path(path)


def camera_rows(cameras: Sequence[CameraView]) -> list[list[CameraView]]:
    """Arrange cameras as they stand on the vehicle.

    Args:
        cameras: any number of views.

    Returns:
        nuScenes' cameras in the rows of :data:`CAMERA_ROWS`; views of any other name as they
        come, three in a row.
    """
    by_name = {view.name: view for view in cameras}
    known = {name for row in CAMERA_ROWS for name in row}
    if len(by_name) == len(cameras) and by_name.keys() <= known:
        rows = [[by_name[name] for name in row if name in by_name] for row in CAMERA_ROWS]
        return [row for row in rows if row]
    return [list(cameras[start : start + 3]) for start in range(0, len(cameras), 3)]


def class_colour(label: int, class_names: Sequence[str]) -> str:
    """The colour of a class: fixed by name for nuScenes' classes, else by its position."""
    if not 0 <= label < len(class_names):
        return _UNKNOWN_COLOUR
    return CLASS_COLOURS.get(class_names[label], _OTHER_COLOURS[label % len(_OTHER_COLOURS)])


def draw_camera(
    axes: Axes,
    view: CameraView,
    class_names: Sequence[str],
    ground_truth: LabelledBoxes | None,
    detections: LabelledBoxes | None,
) -> None:
    """Draw one camera image with the boxes it sees.

    Args:
        axes: where to draw; data coordinates become the image's pixels.
        view: image and calibration.
        class_names: names of the labels.
        ground_truth: drawn dashed, in one colour; where there are no detections, named and in
            the colours of its classes.
        detections: drawn in the colours of their classes, with name and score.
    """
    height, width = view.size
    axes.imshow(view.image, extent=(0, width, height, 0), interpolation='bilinear')
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    if detections is not None:
        colours = _class_colours(detections, class_names)
        draw_projected_boxes(axes, view, detections, colours, dashed=False)
    if ground_truth is not None:
        colours = _ground_truth_colours(ground_truth, class_names, detections)
        draw_projected_boxes(axes, view, ground_truth, colours, dashed=True)
    named = detections if detections is not None else ground_truth
    if named is not None:
        _draw_box_names(axes, view, named, class_names)
    axes.text(
        0.008,
        0.975,
        view.name.removeprefix('CAM_').replace('_', ' '),
        transform=axes.transAxes,
        ha='left',
        va='top',
        fontsize=9,
        fontweight='bold',
        color='white',
        bbox={'facecolor': 'black', 'alpha': 0.65, 'edgecolor': 'none', 'pad': 2.5},
        zorder=10,
    )


def draw_birds_eye_view(
    axes: Axes, scene: DetectionScene, detections: LabelledBoxes | None, bev_range: float
) -> None:
    """Draw points, range rings, the ego vehicle and boxes from above.

    Args:
        axes: where to draw; data coordinates become (x, y) of the LiDAR frame in metres.
        scene: points, ground truth and cameras (whose viewing directions are marked).
        detections: the detections to draw.
        bev_range: half the side of the view, metres.
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
    if scene.ground_truth is not None:
        colours = _ground_truth_colours(scene.ground_truth, scene.class_names, detections)
        draw_bev_boxes(axes, scene.ground_truth, colours, dashed=True)
    if detections is not None:
        colours = _class_colours(detections, scene.class_names)
        draw_bev_boxes(axes, detections, colours, dashed=False)


def camera_panels(
    cameras: Sequence[CameraView], layout: PictureLayout
) -> tuple[list[tuple[CameraView | None, float, float, float, float]], float]:
    """Where each camera is drawn.

    Args:
        cameras: any number of views.
        layout: sizes; ``cameras_width`` and ``gap`` count here.

    Returns:
        (view, left, bottom, width, height) of each panel in inches from the lower left corner of
        all panels, one empty panel (None) where there is no camera; and the height of all panels.
    """
    if not cameras:
        height = 9 / 16 * layout.cameras_width / 1.5  # as two rows of three common images
        return [(None, 0.0, 0.0, layout.cameras_width, height)], height
    rows = camera_rows(cameras)
    columns = max(len(row) for row in rows)
    width = (layout.cameras_width - (columns - 1) * layout.gap) / columns
    height = width * max(view.size[0] / view.size[1] for view in cameras)
    all_height = len(rows) * (height + layout.gap) - layout.gap
    panels: list[tuple[CameraView | None, float, float, float, float]] = []
    for row_number, row in enumerate(rows):
        bottom = all_height - (row_number + 1) * height - row_number * layout.gap
        for column, view in enumerate(row):
            panels.append((view, column * (width + layout.gap), bottom, width, height))
    return panels, all_height


def _class_colours(boxes: LabelledBoxes, class_names: Sequence[str]) -> list[str]:
    return [class_colour(int(label), class_names) for label in boxes.labels]


def _ground_truth_colours(
    ground_truth: LabelledBoxes, class_names: Sequence[str], detections: LabelledBoxes | None
) -> list[str]:
    if detections is None:
        return _class_colours(ground_truth, class_names)
    return [GROUND_TRUTH_COLOUR] * len(ground_truth)


def axes_in_inches(
    figure: Figure, left: float, bottom: float, width: float, height: float
) -> Axes:
    """Axes at a place in inches from the figure's lower left corner."""
    figure_width, figure_height = figure.get_size_inches()
    return figure.add_axes(
        (
            left / figure_width,
            bottom / figure_height,
            width / figure_width,
            height / figure_height,
        )
    )


def _width_in_inches(axes: Axes) -> float:
    figure = axes.figure
    assert isinstance(figure, Figure)
    return axes.get_position().width * figure.get_size_inches()[0]


def draw_projected_boxes(
    axes: Axes,
    view: CameraView,
    boxes: LabelledBoxes,
    colours: Sequence[str],
    dashed: bool,
    line_width: float | None = None,
) -> None:
    """Draw what a camera sees of boxes, the front faces bolder.

    Args:
        axes: in the pixels of the view, as :func:`draw_camera` leaves them.
        view: the calibration.
        boxes: the boxes.
        colours: one for each box.
        dashed: thin dashed lines, as for annotations.
        line_width: of edges that are not at the front, points; None for that of detections, or
            of annotations where dashed.
    """
    segments, visible = project_boxes(boxes.boxes, view.lidar2img, view.size)
    widths = np.full(12, line_width or (0.7 if dashed else 1.3))
    widths[FRONT_FACE_EDGES] *= 1.7
    box_numbers, edge_numbers = np.nonzero(visible)
    if len(box_numbers) == 0:
        return
    lines = segments[box_numbers, edge_numbers]
    line_widths = widths[edge_numbers]
    style = (0, (4, 2.5)) if dashed else 'solid'
    # A dark line underneath all boxes keeps the colour readable on sky and white walls alike.
    axes.add_collection(
        LineCollection(
            list(lines), colors='black', linewidths=line_widths + 1.0, alpha=0.45, zorder=2
        )
    )
    axes.add_collection(
        LineCollection(
            list(lines),
            colors=[colours[number] for number in box_numbers],
            linewidths=line_widths,
            linestyles=[style],
            zorder=4 if dashed else 3,  # a detection in its place is seen through the gaps
        )
    )


def _draw_box_names(
    axes: Axes, view: CameraView, boxes: LabelledBoxes, class_names: Sequence[str]
) -> None:
    """Name boxes above their upper left corner, the surest first, as far as there is room."""
    segments, visible = project_boxes(boxes.boxes, view.lidar2img, view.size)
    height, width = view.size
    pixels_per_point = width / (72 * _width_in_inches(axes))
    text_height = 1.35 * _LABEL_FONT_SIZE * pixels_per_point
    name_plate = (0.0, 0.0, 0.32 * width, 0.08 * height)  # the camera's name stands there
    taken: list[tuple[float, float, float, float]] = [name_plate]
    for number in _most_important_first(boxes):
        if not visible[number].any():
            continue
        text = _box_name(boxes, number, class_names)
        ends = segments[number][visible[number]].reshape(-1, 2)
        text_width = 0.6 * _LABEL_FONT_SIZE * pixels_per_point * len(text)
        left = min(max(ends[:, 0].min(), 0.0), width - text_width)
        bottom = max(ends[:, 1].min(), text_height)
        rectangle = (left, bottom - text_height, left + text_width, bottom)
        if any(_overlap(rectangle, other) for other in taken):
            continue
        taken.append(rectangle)
        axes.text(
            left,
            bottom,
            text,
            fontsize=_LABEL_FONT_SIZE,
            color=class_colour(int(boxes.labels[number]), class_names),
            va='bottom',
            bbox={'facecolor': 'black', 'alpha': 0.55, 'edgecolor': 'none', 'pad': 0.8},
            zorder=6,
        )


def _most_important_first(boxes: LabelledBoxes) -> list[int]:
    if boxes.scores is not None:
        return [int(number) for number in np.argsort(-boxes.scores, kind='stable')]
    distances = np.linalg.norm(boxes.boxes[:, :2], axis=1)
    return [int(number) for number in np.argsort(distances, kind='stable')]


def _box_name(boxes: LabelledBoxes, number: int, class_names: Sequence[str]) -> str:
    label = int(boxes.labels[number])
    name = class_names[label].replace('_', ' ') if 0 <= label < len(class_names) else 'other'
    return name if boxes.scores is None else f'{name} {boxes.scores[number]:.2f}'


def _overlap(
    first: tuple[float, float, float, float], second: tuple[float, float, float, float]
) -> bool:
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )


def _draw_range_rings(axes: Axes, bev_range: float) -> None:
    step = max(5.0, 5.0 * round(bev_range / 15.0))
    for radius in np.arange(step, 1.42 * bev_range, step):
        ring = Circle((0, 0), radius, fill=False, color=_BEV_LINES, linewidth=0.7, zorder=1)
        axes.add_patch(ring)
        across = radius * np.sqrt(0.5)
        if across < 0.95 * bev_range:
            axes.text(
                across,
                across,
                f'{radius:g} m',
                fontsize=7,
                color=_BEV_TEXT,
                ha='center',
                va='center',
                bbox={'facecolor': _BEV_GROUND, 'edgecolor': 'none', 'pad': 0.6},
                zorder=6,
            )


def _draw_points(axes: Axes, points: FloatArray, bev_range: float) -> None:
    inside = np.abs(points[:, :2]).max(axis=1, initial=0.0) <= bev_range
    kept = points[inside]
    kept = kept[np.argsort(kept[:, 2], kind='stable')]  # higher points are drawn over lower ones
    size = float(np.clip(40_000 / max(len(kept), 1), 0.35, 2.0))  # points squared
    axes.scatter(
        kept[:, 0],
        kept[:, 1],
        c=np.clip(kept[:, 2], -3.0, 2.0),
        cmap='bone',
        vmin=-5.0,
        vmax=4.5,
        s=size,
        linewidths=0,
        zorder=2,
    )


def _draw_ego(axes: Axes, cameras: Sequence[CameraView], bev_range: float) -> None:
    """Mark the sensor's place and, where a front camera is known, the direction of travel."""
    axes.plot(0, 0, marker='o', markersize=4.5, color='white', zorder=7)
    for view in cameras:
        if view.name == 'CAM_FRONT':
            _, axis = camera_centre_and_axis(view.lidar2img)
            tip = 0.075 * bev_range * axis[:2] / np.linalg.norm(axis[:2])
            axes.annotate(
                '',
                xy=(tip[0], tip[1]),
                xytext=(0, 0),
                arrowprops={'arrowstyle': '-|>', 'color': 'white', 'linewidth': 1.6},
                zorder=7,
            )


def draw_bev_boxes(axes: Axes, boxes: LabelledBoxes, colours: Sequence[str], dashed: bool) -> None:
    """Draw outlines and headings of boxes into axes of :func:`draw_birds_eye_view`.

    Args:
        axes: in metres, LiDAR frame.
        boxes: the boxes.
        colours: one for each box.
        dashed: thin dashed lines, as for annotations.
    """
    outlines = bev_outlines(boxes.boxes)
    closed = np.concatenate([outlines, outlines[:, :1]], axis=1)  # (N, 5, 2)
    style = (0, (3, 2.2)) if dashed else 'solid'
    order = 5 if dashed else 4
    width = 0.8 if dashed else 1.8
    for lines, line_style in ((closed, style), (bev_headings(boxes.boxes), 'solid')):
        axes.add_collection(
            LineCollection(
                list(lines),
                colors=list(colours),
                linewidths=width,
                linestyles=[line_style],
                zorder=order,
            )
        )


def _draw_legend(axes: Axes, scene: DetectionScene, detections: LabelledBoxes | None) -> None:
    axes.set_axis_off()
    handles = [
        Line2D([], [], color='white', marker='o', markeredgecolor='black', label='ego, front'),
        Line2D([], [], color='#9fb3b8', marker='.', linestyle='', label='LiDAR, brighter: higher'),
    ]
    if scene.ground_truth is not None:
        text = f'ground truth: {len(scene.ground_truth)}'
        colour = '#5b6675' if detections is None else '#18b856'
        handles.append(Line2D([], [], color=colour, linestyle=(0, (4, 2)), label=text))
    if detections is not None:
        text = f'detections: {len(detections)}'
        handles.append(Line2D([], [], color='#5b6675', label=text))
    if detections is not None and scene.ground_truth is not None:
        handles.append(Line2D([], [], linestyle='', label='class: detected / annotated'))
    handles += _class_handles(scene, detections)
    axes.legend(
        handles=handles,
        loc='center left',
        ncols=max(1, int(_width_in_inches(axes) / 2.4)),
        fontsize=9,
        frameon=False,
        borderaxespad=0.0,
        handlelength=2.2,
        columnspacing=1.6,
    )


def _class_handles(scene: DetectionScene, detections: LabelledBoxes | None) -> list[Line2D]:
    """An entry for each class in the sample, with its numbers of detections / annotations."""
    handles = []
    for label, name in enumerate(scene.class_names):
        counts = []
        if detections is not None:
            counts.append(int((detections.labels == label).sum()))
        if scene.ground_truth is not None:
            counts.append(int((scene.ground_truth.labels == label).sum()))
        if not any(counts):
            continue
        text = f'{name.replace("_", " ")}: ' + ' / '.join(str(count) for count in counts)
        colour = class_colour(label, scene.class_names)
        handles.append(Line2D([], [], color=colour, linewidth=3, label=text))
    return handles


def _draw_titles(
    figure: Figure,
    scene: DetectionScene,
    detections: LabelledBoxes | None,
    score_thr: float,
    layout: PictureLayout,
) -> None:
    width, height = figure.get_size_inches()
    parts = [scene.subtitle] if scene.subtitle else []
    if detections is not None:
        parts.append(f'{len(detections)} detections with score ≥ {score_thr:g}')
    if scene.ground_truth is not None:
        parts.append(f'{len(scene.ground_truth)} annotated boxes')
    top = 1 - layout.margin / height
    left = layout.margin / width
    letters = int(layout.cameras_width * 72 / (0.6 * 14))
    title = textwrap.shorten(scene.title, letters, placeholder=' ...')
    figure.text(left, top, title, fontsize=14, fontweight='bold', va='top')
    line_height = 0.5 * layout.header / height
    figure.text(left, top - line_height, '  |  '.join(parts), fontsize=10, va='top', color='#444')


def draw_notice(axes: Axes, text: str) -> None:
    """Fill an empty panel with a line of text."""
    axes.set_facecolor('#e9edf2')
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha='center', va='center', fontsize=14)
