"""The parts that all pictures have in the same places: titles, and cameras as on the vehicle.

Drawn with matplotlib's Agg canvas, without pyplot's global state: no display is needed and the
functions may run in any process or thread. Lengths are in inches.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .camera_view import CameraView
from .scene import Scene
from .scene_panels import draw_camera, draw_notice

CAMERA_ROWS = (
    ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT'),
    ('CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT'),
)
"""Where nuScenes' six cameras stand in the picture, as seen from the vehicle."""

GAP = 0.05
"""Space between panels."""
MARGIN = 0.13
"""Space around everything."""
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


def camera_rows(names: Sequence[str]) -> list[list[int]]:
    """Numbers of nuScenes' cameras in :data:`CAMERA_ROWS`; of others as they come, in threes."""
    numbers = list(range(len(names)))
    known = [[names.index(name) for name in row if name in names] for row in CAMERA_ROWS]
    if sorted(number for row in known for number in row) == numbers:
        return [row for row in known if row]
    return [numbers[start : start + 3] for start in numbers[::3]]


def cameras_height(cameras: Sequence[CameraView], width: float) -> float:
    """Height of :func:`add_camera_panels`; without cameras as of two rows of three common ones."""
    rows = camera_rows([view.name for view in cameras]) or CAMERA_ROWS
    across = (width + GAP) / max(map(len, rows)) - GAP
    shapes = [view.image.shape for view in cameras] or [(9, 16)]
    up = across * max(shape[0] / shape[1] for shape in shapes)
    return len(rows) * (up + GAP) - GAP


def add_camera_panels(figure: Figure, scene: Scene, bottom: float, width: float) -> list[Axes]:
    """The axes of each camera, with its image and boxes, in rows of a width; or a notice."""
    height = cameras_height(scene.cameras, width)
    if not scene.cameras:
        panel = axes_in_inches(figure, MARGIN, bottom, width, height)
        draw_notice(panel, 'no camera in this sample')
        return [panel]
    rows = camera_rows([view.name for view in scene.cameras])
    across, up = (width + GAP) / max(map(len, rows)), (height + GAP) / len(rows)
    places = {
        number: (MARGIN + column * across, bottom + row * up)
        for row, numbers in enumerate(reversed(rows))
        for column, number in enumerate(numbers)
    }
    panels = []
    for number, view in enumerate(scene.cameras):
        panels.append(axes_in_inches(figure, *places[number], across - GAP, up - GAP))
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
