"""The picture of a scale sweep."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..atomic_file import write_atomically
from ..metrics.subset_evaluation import WHOLE
from .scale_sweep_table import LEARNED_POINT, OVERRIDE, SCORES, without_halves

_BLUE, _ORANGE, _GREEN, *_, _PURPLE = colormaps['tab10'].colors[:5]  # type: ignore[attr-defined]
_COLORS = {
    WHOLE: 'black', 'day': _ORANGE, 'night': _BLUE, 'rain': _GREEN, 'night and rain': _PURPLE
}  # fmt: skip
_LEARNED_LINE: dict[str, Any] = dict(color='grey', linestyle='--', linewidth=0.9)


def save_sweep_plot(path: Path, table: pd.DataFrame, learned: Mapping[str, float]) -> None:
    """Draw NDS and mAP over the scale into a PNG file, which is replaced at once.

    Args:
        path: The file.
        table: Of :func:`.scale_sweep_table.long_table`.
        learned: The entries of the learned scale, in logits.
    """
    picture = io.BytesIO()
    draw_sweep(table, learned).savefig(picture, format='png')
    write_atomically(path, picture.getvalue())


def draw_sweep(table: pd.DataFrame, learned: Mapping[str, float]) -> Figure:
    """Each score, and below it its change against the learned scale; a curve for each part.

    Args:
        table: Of :func:`.scale_sweep_table.long_table`.
        learned: The entries of the learned scale, in logits.

    Returns:
        The figure, with a canvas that needs no display.
    """
    figure = Figure(figsize=(12.0, 8.0), dpi=120, layout='constrained', facecolor='white')
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(SCORES), sharex=True)
    table = without_halves(table)
    changes = _changes(table)
    for (above, below), score in zip(panels.T, SCORES, strict=True):
        _draw_panel(above, table, score, learned)
        _draw_panel(below, changes, score, learned)
        above.set_ylabel(f'{score} (0 to 1)')
        below.set_ylabel(f'{score} minus {score} with the learned scale')
        below.set_xlabel('bias scale at test time (logits)')
        below.axhline(0, color='grey', linewidth=0.8, zorder=0)
    figure.suptitle('Detection of one trained model, its bias scale overridden at test time')
    figure.legend(handles=_legend(table, learned), loc='outside right upper', frameon=False)
    return figure


def _changes(table: pd.DataFrame) -> pd.DataFrame:
    """The table with scores relative to those of the learned scale in the same part."""
    learned = table[table['point'] == LEARNED_POINT].set_index('part')
    relative = table.copy()
    for score in SCORES:
        relative[score] -= table['part'].map(learned[score])
    return relative


def _draw_panel(axes: Axes, table: pd.DataFrame, score: str, learned: Mapping[str, float]) -> None:
    for name, entry in learned.items():
        axes.axvline(entry, zorder=0, **_LEARNED_LINE)
        if len(learned) > 1:
            place: dict[str, Any] = dict(transform=axes.get_xaxis_transform(), va='bottom')
            axes.text(entry, 0.02, name, rotation=90, ha='right', fontsize=7, **place)
    for _, rows in table.groupby('part', sort=False):
        _draw_part(axes, rows, score)
    axes.grid(color='#e5e5e5', linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)


def _draw_part(axes: Axes, rows: pd.DataFrame, score: str) -> None:
    """The curve of one part, its best values, and the score of the learned scale."""
    color = _COLORS[rows['part'].iloc[0]]
    curve = rows.dropna(subset='scale').sort_values('scale')
    axes.plot(curve['scale'], curve[score], '.-', color=color, linewidth=_width(rows))
    swept = rows[rows['point'] == OVERRIDE]
    if swept[score].nunique() > 1:
        best = swept[swept[score] == swept[score].max()]
        axes.plot(best['scale'], best[score], '*', color=color, markersize=14)
    learned = rows[rows['point'] == LEARNED_POINT].iloc[0]
    if pd.notna(learned['scale']):
        axes.plot(
            learned['scale'], learned[score], 'D', color=color, markerfacecolor='white', zorder=3
        )
    else:
        axes.axhline(learned[score], color=color, linestyle=':', linewidth=1.0)


def _width(rows: pd.DataFrame) -> float:
    """Line width in points."""
    return 2.2 if rows['part'].iloc[0] == WHOLE else 1.3


def _legend(table: pd.DataFrame, learned: Mapping[str, float]) -> list[Line2D]:
    handles = []
    for part, rows in table.groupby('part', sort=False):
        first = rows.iloc[0]
        label = f'{part}: {first["frames"]} frames, {first["scenes"]} scenes'
        color, width = _COLORS[str(part)], _width(rows)
        handles.append(Line2D([], [], color=color, linewidth=width, marker='.', label=label))
    star: dict[str, Any] = dict(marker='*', markersize=12, linestyle='', color='grey')
    handles.append(Line2D([], [], label='best overridden value', **star))
    low, high = min(learned.values()), max(learned.values())
    if len(learned) == 1:
        diamond: dict[str, Any] = dict(marker='D', markerfacecolor='white')
        handles.append(Line2D([], [], label=f'learned: {low:.3f}', **_LEARNED_LINE, **diamond))
        return handles
    text = f'learned, {len(learned)} entries:\n{low:.3f} to {high:.3f}'
    handles.append(Line2D([], [], label=text, **_LEARNED_LINE))
    score_text = 'score with the learned entries'
    return [*handles, Line2D([], [], color='grey', linestyle=':', label=score_text)]
