"""Drawing of one sample: its cameras and the bird's-eye view with annotated and detected boxes.

Drawn with matplotlib's Agg canvas, without pyplot's global state: no display is needed and the
functions may run in any process or thread.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .detection_scene import CameraView, DetectionScene, LabelledBoxes
from .scene_panels import class_colour, draw_birds_eye_view, draw_camera, draw_notice

CAMERA_ROWS: tuple[tuple[str, ...], ...] = (
    ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT'),
    ('CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT'),
)
"""Where nuScenes' six cameras stand in the picture, as seen from the vehicle."""


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
    _draw_legend(legend_axes, scene, detections, layout.cameras_width)
    _draw_titles(figure, scene, detections, score_thr, layout)
    return figure


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


def _draw_legend(
    axes: Axes, scene: DetectionScene, detections: LabelledBoxes | None, columns_width: float
) -> None:
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
        ncols=max(1, int(columns_width / 2.4)),
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
