"""Picture of one sample: cameras and bird's-eye view with annotated and detected boxes."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .picture_layout import (
    GAP,
    MARGIN,
    add_camera_panels,
    axes_in_inches,
    cameras_height,
    draw_titles,
    new_figure,
)
from .scene import Scene
from .scene_panels import class_colour, draw_birds_eye_view

# Inches.
_WIDTH = 12.1  # of the cameras
_HEADER = 0.6
_LEGEND = 0.78
_AXIS_LABELS = 0.5


def draw_scene(scene: Scene, score_thr: float = 0.3, bev_range: float = 55.0) -> Figure:
    """Draw cameras on the left, the legend below them, and the bird's-eye view on the right.

    Args:
        scene: what to draw.
        score_thr: detections below this score are left out.
        bev_range: half the side of the bird's-eye view, metres.

    Raises:
        ValueError: if ``bev_range`` is not positive.
    """
    if bev_range <= 0:
        raise ValueError(f'bev_range is half a side in metres and must be > 0, got {bev_range}')
    scene = scene.with_scores_from(score_thr)
    height = 2 * MARGIN + _HEADER + cameras_height(scene.cameras, _WIDTH) + _LEGEND
    bev_side = height - 2 * MARGIN - _AXIS_LABELS
    bev_left = MARGIN + _WIDTH + GAP + _AXIS_LABELS
    figure = new_figure(bev_left + bev_side + MARGIN, height)
    add_camera_panels(figure, scene, MARGIN + _LEGEND, _WIDTH)
    bev = axes_in_inches(figure, bev_left, MARGIN + _AXIS_LABELS, bev_side, bev_side)
    draw_birds_eye_view(bev, scene, bev_range)
    _draw_legend(axes_in_inches(figure, MARGIN, MARGIN, _WIDTH, _LEGEND - GAP), scene)
    parts = [scene.subtitle] if scene.subtitle else []
    if scene.detections is not None:
        parts.append(f'{len(scene.detections)} detections with score ≥ {score_thr:g}')
    if scene.ground_truth is not None:
        parts.append(f'{len(scene.ground_truth)} annotated boxes')
    draw_titles(figure, scene.title, ['  |  '.join(parts)], _WIDTH)
    return figure


def _draw_legend(axes: Axes, scene: Scene) -> None:
    """What lines and points mean, and each class with its numbers of detections / annotations."""
    axes.set_axis_off()
    handles = [
        Line2D([], [], color='white', marker='o', markeredgecolor='black', label='ego, front'),
        Line2D([], [], color='#9fb3b8', marker='.', linestyle='', label='LiDAR, brighter: higher'),
    ]
    found, annotated = scene.detections, scene.ground_truth
    if annotated is not None:
        colour = '#5b6675' if found is None else '#18b856'
        text = f'ground truth: {len(annotated)}'
        handles.append(Line2D([], [], color=colour, linestyle=(0, (4, 2)), label=text))
    if found is not None:
        handles.append(Line2D([], [], color='#5b6675', label=f'detections: {len(found)}'))
    if found is not None and annotated is not None:
        handles.append(Line2D([], [], linestyle='', label='class: detected / annotated'))
    shown = [boxes.labels_3d for boxes in (found, annotated) if boxes is not None]
    for label, name in enumerate(scene.class_names):
        counts = [int((labels == label).sum()) for labels in shown]
        if any(counts):
            text = f'{name.replace("_", " ")}: ' + ' / '.join(map(str, counts))
            colour = class_colour(label, scene.class_names)
            handles.append(Line2D([], [], color=colour, linewidth=3, label=text))
    places: dict[str, Any] = dict(loc='center left', ncols=5, borderaxespad=0.0)
    axes.legend(
        handles=handles, fontsize=9, frameon=False, handlelength=2.2, columnspacing=1.6, **places
    )
