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

CAMERA_ROWS: tuple[tuple[str, ...], ...] = (
    ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT'),
    ('CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT'),
)
"""Where nuScenes' six cameras stand in the picture, as seen from the vehicle."""

GAP = 0.05
"""Space between panels."""
MARGIN = 0.13
"""Space around everything."""
DPI = 130
_TITLE_POINTS = 14


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor='white')
    FigureCanvasAgg(figure)
    return figure


def axes_in_inches(
    figure: Figure, left: float, bottom: float, width: float, height: float
) -> Axes:
    """Axes at a place from the figure's lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def camera_rows(names: Sequence[str]) -> list[list[int]]:
    """Arrange cameras as they stand on the vehicle.

    Args:
        names: of any number of cameras.

    Returns:
        Numbers of nuScenes' cameras in the rows of :data:`CAMERA_ROWS`; those of any other name as
        they come, three in a row.
    """
    numbers = list(range(len(names)))
    known = [[names.index(name) for name in row if name in names] for row in CAMERA_ROWS]
    if sorted(number for row in known for number in row) == numbers:
        return [row for row in known if row]
    return [numbers[start : start + 3] for start in numbers[::3]]


def cameras_height(cameras: Sequence[CameraView], width: float) -> float:
    """The height of the panels of :func:`add_camera_panels`."""
    rows = camera_rows([view.name for view in cameras])
    if not rows:
        return 9 / 16 * width / 1.5  # as two rows of three common images
    columns = max(map(len, rows))
    shape = max(view.image.shape[0] / view.image.shape[1] for view in cameras)
    panel_height = shape * (width - (columns - 1) * GAP) / columns
    return len(rows) * (panel_height + GAP) - GAP


def add_camera_panels(
    figure: Figure, cameras: Sequence[CameraView], left: float, bottom: float, width: float
) -> list[Axes]:
    """Add a panel for each camera, or where there is none one that says so.

    Args:
        figure: The figure.
        cameras: Any number of views.
        left: Of all panels, from the figure's left side.
        bottom: Of all panels, from the figure's lower side.
        width: Of the panels of a row together.

    Returns:
        The axes of each camera.
    """
    height = cameras_height(cameras, width)
    rows = camera_rows([view.name for view in cameras])
    if not rows:
        panel = axes_in_inches(figure, left, bottom, width, height)
        draw_notice(panel, 'no camera in this sample')
        return []
    columns = max(map(len, rows))
    panel_width = (width - (columns - 1) * GAP) / columns
    panel_height = (height - (len(rows) - 1) * GAP) / len(rows)
    panels = {}
    for up, row in enumerate(reversed(rows)):
        for right, number in enumerate(row):
            corner = left + right * (panel_width + GAP), bottom + up * (panel_height + GAP)
            panels[number] = axes_in_inches(figure, *corner, panel_width, panel_height)
    return [panels[number] for number in range(len(cameras))]


def draw_notice(axes: Axes, text: str) -> None:
    """Fill an empty panel with a line of text."""
    axes.set_facecolor('#e9edf2')
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha='center', va='center', fontsize=14)


def draw_titles(figure: Figure, title: str, lines: Sequence[str], width: float) -> None:
    """Write a title, as much of it as fits, and lines below it, at the top of a figure."""
    across, up = figure.get_size_inches()
    left, top = MARGIN / across, 1 - MARGIN / up
    title = textwrap.shorten(title, int(width * 72 / (0.6 * _TITLE_POINTS)), placeholder=' ...')
    figure.text(left, top, title, fontsize=_TITLE_POINTS, fontweight='bold', va='top')
    for number, line in enumerate(lines):
        ordinate = top - (0.3 + 0.24 * number) / up
        figure.text(left, ordinate, line, fontsize=10, va='top', color='#444444')
