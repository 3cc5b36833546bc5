"""Picture of one sample: cameras and bird's-eye view with annotated and detected boxes."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .scene import Scene
from .scene_panels import (
    GAP,
    MARGIN,
    axes_in_inches,
    class_colour,
    class_name,
    draw_birds_eye_view,
    new_picture,
)

# Inches.
_WIDTH = 12.1  # of the cameras
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
    below = MARGIN + _LEGEND
    figure, _ = new_picture(scene, [scene.subtitle], _WIDTH, below, square_beside=True)
    width, height = figure.get_size_inches()
    side = height - 2 * MARGIN - _AXIS_LABELS
    bev = axes_in_inches(figure, width - MARGIN - side, MARGIN + _AXIS_LABELS, side, side)
    draw_birds_eye_view(bev, scene, bev_range)
    legend = axes_in_inches(figure, MARGIN, MARGIN, _WIDTH, _LEGEND - GAP)
    _draw_legend(legend, scene, score_thr)
    return figure


def _draw_legend(axes: Axes, scene: Scene, score_thr: float) -> None:
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
        text = f'detections, score ≥ {score_thr:g}: {len(found)}'
        handles.append(Line2D([], [], color='#5b6675', label=text))
    if found is not None and annotated is not None:
        handles.append(Line2D([], [], linestyle='', label='class: detected / annotated'))
    shown = [boxes.labels_3d for boxes in (found, annotated) if boxes is not None]
    for label in range(len(scene.class_names)):
        counts = [int((labels == label).sum()) for labels in shown]
        if any(counts):
            text = f'{class_name(label, scene.class_names)}: ' + ' / '.join(map(str, counts))
            colour = class_colour(label, scene.class_names)
            handles.append(Line2D([], [], color=colour, linewidth=3, label=text))
    places: dict[str, Any] = dict(loc='center left', ncols=5, borderaxespad=0.0)
    axes.legend(
        handles=handles, fontsize=9, frameon=False, handlelength=2.2, columnspacing=1.6, **places
    )
