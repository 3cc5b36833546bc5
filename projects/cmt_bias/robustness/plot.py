"""The plot of a robustness test."""

from pathlib import Path

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..atomic_file import save_figure

_MARKERS = {'lidar_weight': ('LiDAR', 'o', 'full'), 'camera_weight': ('cameras', 's', 'none')}
_COLORS = colormaps['tab10'].colors  # type: ignore[attr-defined]


def save_robustness_plot(path: Path, table: pd.DataFrame) -> None:
    """Draw the table into a PNG file, which is replaced at once.

    Args:
        path: The file.
        table: Of :func:`cmt_bias.robustness.long_table`.
    """
    save_figure(draw_robustness(table), path)


def draw_robustness(table: pd.DataFrame) -> Figure:
    """NDS and mAP of each model under each failure, and the routers' weights if there are any.

    Args:
        table: Of :func:`cmt_bias.robustness.long_table`.

    Returns:
        The figure, with a canvas that needs no display.
    """
    failures, models = list(table['failure'].unique()), list(table['model'].unique())
    has_router = bool(table['lidar_weight'].notna().any())
    height = 2.0 + len(failures) * (0.22 + 0.13 * len(models))
    width = 13.0 if has_router else 9.0
    figure = Figure(figsize=(width, height), dpi=120, layout='constrained', facecolor='white')
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3 if has_router else 2, sharey=True, squeeze=False)[0]
    for axes, score in zip(panels, ('NDS', 'mAP'), strict=False):
        _draw_scores(axes, table, score, failures, models)
    if has_router:
        _draw_weights(panels[2], table, failures, models)
    panels[0].set_yticks(range(len(failures)), failures)
    panels[0].set_ylim(len(failures) - 0.5, -0.5)
    for axes in panels:
        axes.grid(axis='x', color='#dddddd', linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    if has_router:
        more_handles, more_labels = panels[2].get_legend_handles_labels()
        handles, labels = handles + more_handles, labels + more_labels
    columns = max(len(models), 2)
    figure.legend(handles, labels, loc='outside lower center', ncols=columns, frameon=False)
    return figure


def _places(index: int, number: int) -> float:
    """Where the model ``index`` of ``number`` lies within the row of a failure."""
    return 0.8 * ((index + 0.5) / number - 0.5)


def _draw_scores(
    axes: Axes, table: pd.DataFrame, score: str, failures: list[str], models: list[str]
) -> None:
    for index, model in enumerate(models):
        values = table[table['model'] == model].set_index('failure')[score].reindex(failures)
        rows = [row + _places(index, len(models)) for row in range(len(failures))]
        color = _COLORS[index % len(_COLORS)]
        axes.barh(rows, values, height=0.75 / len(models), color=color, label=model)
    axes.set_xlabel(f'{score} (0 to 1)')
    axes.set_xlim(left=0)


def _draw_weights(axes: Axes, table: pd.DataFrame, failures: list[str], models: list[str]) -> None:
    axes.axvline(0, color='#888888', linewidth=0.8)
    for index, model in enumerate(models):
        mine = table[table['model'] == model].set_index('failure').reindex(failures)
        rows = [row + _places(index, len(models)) for row in range(len(failures))]
        color = _COLORS[index % len(_COLORS)]
        for column, (sensor, marker, fill) in _MARKERS.items():
            if mine[column].notna().any():
                axes.plot(
                    mine[column],
                    rows,
                    marker,
                    color=color,
                    fillstyle=fill,
                    markersize=4,
                    label=f'{model}: {sensor}',
                )
    axes.set_xlim(-1.05, 1.05)
    axes.set_xlabel("router's mean weight (-1 to 1)")
