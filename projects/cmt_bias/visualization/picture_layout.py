"""The parts that all pictures have in the same places: titles, and cameras as on the vehicle.

Drawn with matplotlib's Agg canvas, without pyplot's global state: no display is needed and the
functions may run in any process or thread. Lengths are in inches.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .camera_view import CameraView
from .scene import Scene
from .scene_panels import draw_camera, draw_notice

CAMERA_ORDER = (
    *('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT'),
    *('CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT'),
)
"""nuScenes' six cameras in two rows, as seen from the vehicle."""

GAP = 0.05
"""Space between panels."""
MARGIN = 0.13
"""Space around everything."""
_COLUMNS = 3
_TITLE_POINTS = 14


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure."""
    figure = Figure(figsize=(width, height), dpi=130, facecolor='white')
    FigureCanvasAgg(figure)
    return figure


def axes_in_inches(
    figure: Figure, left: float, bottom: float, width: float, height: float
) -> Axes:
    """Axes at a place from the figure's lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def camera_places(names: Sequence[str]) -> list[int]:
    """Where each camera stands, row by row: nuScenes' as on the vehicle, others as they come."""
    known = [name for name in CAMERA_ORDER if name in names]
    return (
        [known.index(name) for name in names] if len(known) == len(names) else [*range(len(names))]
    )


def cameras_height(cameras: Sequence[CameraView], width: float) -> float:
    """Height of :func:`add_camera_panels`; without cameras as of two rows of three common ones."""
    shapes = [view.image.shape for view in cameras] or [(9, 16)] * 6
    columns = min(len(shapes), _COLUMNS)
    across = (width + GAP) / columns - GAP
    up = across * max(shape[0] / shape[1] for shape in shapes)
    return math.ceil(len(shapes) / columns) * (up + GAP) - GAP


def add_camera_panels(figure: Figure, scene: Scene, bottom: float, width: float) -> list[Axes]:
    """The axes of each camera, with its image and boxes, in rows of a width; or a notice."""
    height = cameras_height(scene.cameras, width)
    if not scene.cameras:
        panel = axes_in_inches(figure, MARGIN, bottom, width, height)
        draw_notice(panel, 'no camera in this sample')
        return [panel]
    columns = min(len(scene.cameras), _COLUMNS)
    rows = math.ceil(len(scene.cameras) / columns)
    across, up = (width + GAP) / columns, (height + GAP) / rows
    panels = []
    places = camera_places([view.name for view in scene.cameras])
    for view, place in zip(scene.cameras, places, strict=True):
        row, column = divmod(place, columns)
        left, low = MARGIN + column * across, bottom + (rows - 1 - row) * up
        panels.append(axes_in_inches(figure, left, low, across - GAP, up - GAP))
        draw_camera(panels[-1], scene, view)
    return panels


def draw_titles(figure: Figure, title: str, lines: Sequence[str], width: float) -> None:
    """Write a title, as much of it as fits, and lines below it, at the top of a figure."""
    across, up = figure.get_size_inches()
    left, top = MARGIN / across, 1 - MARGIN / up
    title = textwrap.shorten(title, int(width * 72 / (0.6 * _TITLE_POINTS)), placeholder=' ...')
    figure.text(left, top, title, fontsize=_TITLE_POINTS, fontweight='bold', va='top')
    for number, line in enumerate(lines):
        ordinate = top - (0.3 + 0.24 * number) / up
        figure.text(left, ordinate, line, fontsize=10, va='top', color='#444444')
