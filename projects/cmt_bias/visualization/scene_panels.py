"""The panels of a picture: a camera's image and the bird's-eye view, with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patches import Circle

from .detection_scene import CameraView, DetectionScene, LabelledBoxes
from .projection_geometry import (
    FRONT_FACE_EDGES,
    FloatArray,
    bev_headings,
    bev_outlines,
    camera_centre_and_axis,
    project_boxes,
)

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
    named = detections if detections is not None else ground_truth
    if named is not None:
        _draw_box_names(axes, view, named, class_names)


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


def _class_colours(boxes: LabelledBoxes, class_names: Sequence[str]) -> list[str]:
    return [class_colour(int(label), class_names) for label in boxes.labels]


def _ground_truth_colours(
    ground_truth: LabelledBoxes, class_names: Sequence[str], detections: LabelledBoxes | None
) -> list[str]:
    if detections is None:
        return _class_colours(ground_truth, class_names)
    return [GROUND_TRUTH_COLOUR] * len(ground_truth)


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
    taken = [text.get_window_extent().padded(3.0) for text in axes.texts]
    importance = -np.linalg.norm(boxes.boxes[:, :2], axis=1)
    if boxes.scores is not None:
        importance = boxes.scores
    for number in np.argsort(-importance, kind='stable'):
        if not visible[number].any():
            continue
        label = int(boxes.labels[number])
        known = 0 <= label < len(class_names)
        name = class_names[label].replace('_', ' ') if known else 'other'
        left, top = segments[number][visible[number]].reshape(-1, 2).min(axis=0)
        text = axes.text(
            left,
            top,
            name if boxes.scores is None else f'{name} {boxes.scores[number]:.2f}',
            fontsize=7.0,
            color=class_colour(label, class_names),
            va='bottom',
            bbox={'facecolor': 'black', 'alpha': 0.55, 'edgecolor': 'none', 'pad': 0.8},
            zorder=6,
        )
        extent = text.get_window_extent()
        # back into the image
        right, up = np.minimum(0.0, np.subtract(axes.bbox.max, extent.max))
        extent = extent.translated(right, up)
        left, bottom = axes.transData.inverted().transform((extent.x0, extent.y0))
        text.set_position((left, bottom))
        if extent.count_overlaps(taken):
            text.remove()
        else:
            taken.append(extent)


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
    style: dict[str, Any] = dict(
        linewidths=0.8 if dashed else 1.8, zorder=5 if dashed else 4, edgecolors=list(colours)
    )
    outline_style = (0, (3, 2.2)) if dashed else 'solid'
    outlines = list(bev_outlines(boxes.boxes))
    axes.add_collection(
        PolyCollection(outlines, facecolors='none', linestyles=[outline_style], **style)
    )
    axes.add_collection(LineCollection(list(bev_headings(boxes.boxes)), **style))


def draw_notice(axes: Axes, text: str) -> None:
    """Fill an empty panel with a line of text."""
    axes.set_facecolor('#e9edf2')
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha='center', va='center', fontsize=14)
