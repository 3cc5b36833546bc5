"""The picture of a scale sweep."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..atomic_file import save_figure
from .scale_sweep_table import LEARNED_POINT, OVERRIDE, SCORES, without_halves


def save_sweep_plot(path: Path, table: pd.DataFrame, learned: Mapping[str, float]) -> None:
    """Draw NDS and mAP over the scale into a PNG file, which is replaced at once.

    Args:
        path: The file.
        table: Of :func:`.scale_sweep_table.long_table`.
        learned: The entries of the learned scale, in logits.
    """
    save_figure(draw_sweep(table, learned), path)


def draw_sweep(table: pd.DataFrame, learned: Mapping[str, float]) -> Figure:
    """Each score as its change against the learned scale; a curve for each part.

    Args:
        table: Of :func:`.scale_sweep_table.long_table`.
        learned: The entries of the learned scale, in logits; each is an upright line.

    Returns:
        The figure, with a canvas that needs no display.
    """
    figure = Figure(figsize=(12.0, 4.5), dpi=120, layout='constrained', facecolor='white')
    FigureCanvasAgg(figure)
    table = without_halves(table)
    reference = table[table['point'] == LEARNED_POINT].set_index('part')
    for axes, score in zip(figure.subplots(1, len(SCORES)), SCORES, strict=True):
        for name, entry in learned.items():
            axes.axvline(entry, color='grey', linestyle='--', linewidth=0.9, zorder=0)
            place = dict(transform=axes.get_xaxis_transform(), va='bottom', ha='right')
            axes.text(entry, 0.02, f'learned, {name}', rotation=90, fontsize=7, **place)
        for part, rows in table[table['point'] == OVERRIDE].groupby('part', sort=False):
            known, frames = reference.loc[part, score], rows['frames'].iloc[0]
            change = rows[score] - known
            label = f'{part}: {frames} frames, {score} {known:.3f}'
            (curve,) = axes.plot(rows['scale'], change, '.-', label=label)
            best = change == change.max()
            if not best.all():
                style = dict(color=curve.get_color(), markersize=13)
                axes.plot(rows.loc[best, 'scale'], change[best], '*', **style)
        axes.axhline(0, color='grey', linewidth=0.8, zorder=0)
        axes.set(
            xlabel='bias scale at test time (logits)', ylabel=f'{score} minus that of the learned'
        )
        axes.grid(color='#e5e5e5', linewidth=0.6)
        axes.legend(fontsize=8, frameon=False)
    figure.suptitle('Detection of one trained model, its bias scale overridden at test time')
    return figure
