"""Pictures of a study's report."""

from pathlib import Path

import pandas as pd
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..atomic_file import save_figure
from .seed_statistics import compare
from .study_results import StudyResults
from .training_curves import running_mean

LINE_STYLES = ('-', '--', ':', '-.')
DPI = 110


def _colors(results: StudyResults) -> dict[str, str]:
    palette = colormaps['tab10']
    return {name: to_hex(palette(i % 10)) for i, name in enumerate(results.variants)}


def _figure(width: float, height: float) -> Figure:
    """A figure that needs no display; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout='constrained', facecolor='white')
    FigureCanvasAgg(figure)
    return figure


def save_differences(results: StudyResults, path: Path) -> bool:
    """Paired differences in mAP to the reference by part and failure; False without any."""
    values = results.values[results.values['metric'] == 'mAP']
    subsets = list(values['subset'].unique())
    variants = [name for name in results.variants if name != results.reference]
    rows = [
        (subset, variant, compare(values, variant, results.reference, subset, 'mAP'))
        for subset in subsets
        for variant in variants
    ]
    if not any(found.count for _, _, found in rows):
        return False
    figure = _figure(9.0, 1.4 + 0.11 * (len(variants) + 1) * len(subsets))
    axes = figure.subplots()
    axes.axvline(0.0, color='black', linewidth=0.8)
    colors = _colors(results)
    for subset, variant, found in rows:
        place = subsets.index(subset) + 0.8 * (
            (variants.index(variant) + 0.5) / len(variants) - 0.5
        )
        known = found.count > 1
        if known:
            axes.plot([found.low, found.high], [place] * 2, color=colors[variant], linewidth=1.4)
        fill = 'full' if known else 'none'
        axes.plot(found.difference, place, 'o', color=colors[variant], ms=3.5, fillstyle=fill)
    for line in range(1, len(subsets)):
        axes.axhline(line - 0.5, color='lightgrey', linewidth=0.6)
    axes.set_yticks(range(len(subsets)), [name.removeprefix('failure: ') for name in subsets])
    axes.set_ylim(len(subsets) - 0.5, -0.5)
    axes.set_xlabel(f'difference in mAP to {results.reference} (95 % interval; hollow: one seed)')
    figure.legend(
        handles=[Line2D([], [], color=colors[name], label=name) for name in variants],
        loc='outside right upper',
        frameon=False,
        fontsize=9,
    )
    save_figure(figure, path)
    return True


def save_curves(results: StudyResults, path: Path) -> bool:
    """Loss and bias scale of all runs over iterations; False without any."""
    curves = results.curves
    if curves.empty:
        return False
    figure = _figure(12.0, 4.6)
    loss_axes, scale_axes = figure.subplots(1, 2)
    colors = _colors(results)
    entries = sorted(set(curves['name']) - {'loss'})
    for (variant, _, name), rows in curves.groupby(['variant', 'seed', 'name'], sort=False):
        curve = pd.Series(rows['value'].to_numpy(), index=rows['iteration'])
        if name == 'loss':
            loss_axes.plot(running_mean(curve), color=colors[variant], linewidth=1.0, alpha=0.8)
        else:
            style = LINE_STYLES[entries.index(name) % len(LINE_STYLES)]
            scale_axes.plot(
                curve, color=colors[variant], linestyle=style, linewidth=1.2, alpha=0.8
            )
    loss_axes.set(xlabel='iteration', ylabel='training loss (running mean)')
    scale_axes.set(xlabel='iteration', ylabel='bias scale in effect (logits)')
    handles = [Line2D([], [], color=color, label=name) for name, color in colors.items()]
    if len(entries) > 1:
        handles += [
            Line2D([], [], color='black', linestyle=LINE_STYLES[i % len(LINE_STYLES)], label=name)
            for i, name in enumerate(entries)
        ]
    figure.legend(handles=handles, loc='outside right upper', frameon=False, fontsize=9)
    save_figure(figure, path)
    return True
