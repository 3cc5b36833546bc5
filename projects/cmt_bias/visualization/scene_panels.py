"""The panels of a picture: a camera's image and the bird's-eye view, with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patches import Circle
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from .camera_view import FRONT_EDGES, CameraView, FloatArray
from .scene import Scene

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
_ON_BLACK: dict[str, Any] = dict(facecolor='black', edgecolor='none')


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
    box = dict(_ON_BLACK, alpha=0.65, pad=2.5)
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


def _coloured_boxes(scene: Scene) -> list[tuple[LiDARInstance3DBoxes, list[str], bool]]:
    """Detections and annotations, their colours, and whether they are dashed."""
    kinds = []
    for boxes, dashed in ((scene.detections, False), (scene.ground_truth, True)):
        if boxes is not None:
            colours = [
                class_colour(label, scene.class_names) for label in boxes.labels_3d.tolist()
            ]
            if dashed and scene.detections is not None:
                colours = [GROUND_TRUTH_COLOUR] * len(boxes)
            kinds.append((boxes.bboxes_3d, colours, dashed))
    return kinds


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
    widths = np.full(visible.shape[1], 0.7 if dashed else line_width)
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
    style: dict[str, Any] = dict(
        linewidths=0.8 if dashed else 1.8, zorder=5 if dashed else 4, edgecolors=list(colours)
    )
    corners = boxes.corners[..., :2].numpy()  # (N, 8, 2), 4-7 at the front
    outlines = PolyCollection(
        list(corners[:, [0, 3, 7, 4]]),
        facecolors='none',
        linestyles=[(0, (3, 2.2)) if dashed else 'solid'],
        **style,
    )
    headings = np.stack([corners.mean(axis=1), corners[:, 4:].mean(axis=1)], axis=1)
    axes.add_collection(outlines)
    axes.add_collection(LineCollection(list(headings), **style))


def _draw_box_names(
    axes: Axes, view: CameraView, boxes: InstanceData, class_names: Sequence[str]
) -> None:
    """Name boxes above their upper left corner, the surest first, as far as there is room."""
    segments, visible = view.project_boxes(boxes.bboxes_3d)
    taken = [text.get_window_extent().padded(3.0) for text in axes.texts]
    scores = boxes.get('scores_3d')
    importance = -boxes.bboxes_3d.bev[:, :2].norm(dim=1) if scores is None else scores
    for number in importance.argsort(descending=True, stable=True).tolist():
        if not visible[number].any():
            continue
        label = int(boxes.labels_3d[number])
        name = class_name(label, class_names)
        left, top = segments[number][visible[number]].reshape(-1, 2).min(axis=0)
        name += '' if scores is None else f' {scores[number]:.2f}'
        colour, box = class_colour(label, class_names), dict(_ON_BLACK, alpha=0.55, pad=0.8)
        text = axes.text(
            left, top, name, fontsize=7, color=colour, va='bottom', bbox=box, zorder=6
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
