"""The plot of a robustness test."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..atomic_file import save_figure

_MARKERS = {'lidar_weight': ('LiDAR', 'o', 'full'), 'camera_weight': ('cameras', 's', 'none')}


def save_robustness_plot(path: Path, table: pd.DataFrame) -> None:
    """Draw NDS and mAP of each model under each failure, and the weights of routers."""
    failures, models = list(table['failure'].unique()), list(table['model'].unique())
    has_router = bool(table['lidar_weight'].notna().any())
    height = 2.0 + len(failures) * (0.22 + 0.13 * len(models))
    width = 13.0 if has_router else 9.0
    figure = Figure(figsize=(width, height), dpi=120, layout='constrained', facecolor='white')
    panels = figure.subplots(1, 3 if has_router else 2, sharey=True)
    for index, model in enumerate(models):
        mine = table[table['model'] == model].set_index('failure').reindex(failures)
        place = 0.8 * ((index + 0.5) / len(models) - 0.5)
        rows = [row + place for row in range(len(failures))]
        color = f'C{index % 10}'
        for axes, score in zip(panels, ('NDS', 'mAP'), strict=False):
            axes.barh(rows, mine[score], height=0.75 / len(models), color=color, label=model)
            axes.set_xlabel(f'{score} (0 to 1)')
            axes.set_xlim(left=0)
        for column, (sensor, marker, fill) in _MARKERS.items():
            if mine[column].notna().any():
                style = dict(color=color, fillstyle=fill, markersize=4)
                panels[2].plot(mine[column], rows, marker, label=f'{model}: {sensor}', **style)
    if has_router:
        panels[2].axvline(0, color='#888888', linewidth=0.8)
        panels[2].set_xlim(-1.05, 1.05)
        panels[2].set_xlabel("router's mean weight (-1 to 1)")
    panels[0].set_yticks(range(len(failures)), failures)
    panels[0].set_ylim(len(failures) - 0.5, -0.5)
    for axes in panels:
        axes.grid(axis='x', color='#dddddd', linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
    told = panels[::2]  # the second panel has the models of the first
    handles = [handle for axes in told for handle in axes.get_legend_handles_labels()[0]]
    columns = max(len(models), 2)
    figure.legend(handles=handles, loc='outside lower center', ncols=columns, frameon=False)
    save_figure(figure, path)
