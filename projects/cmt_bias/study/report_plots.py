"""Pictures of a study's report."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .study_results import StudyResults
from .training_curves import running_mean

LINE_STYLES = ('-', '--', ':', '-.')
DPI = 120


def variant_colors(results: StudyResults) -> dict[str, str]:
    """A colour for each variant, the same in all pictures."""
    palette = colormaps['tab10']
    return {
        name: to_hex(palette(number % 10)) for number, name in enumerate(results.record.variants)
    }


def draw_scale_curves(results: StudyResults, path: Path) -> bool:
    """The bias scale of all runs over iterations; tells whether there was any."""
    figure, (axes,) = _new_figure(9.0, 5.0)
    entries: list[str] = []
    for run in results.runs:
        for name in run.scales:
            entries += [name] if name not in entries else []
            style = LINE_STYLES[entries.index(name) % len(LINE_STYLES)]
            color = variant_colors(results)[run.variant]
            curve = run.scales[name]
            axes.plot(curve.index, curve, color=color, linestyle=style, linewidth=1.3, alpha=0.85)
    if not entries:
        return False
    axes.set(xlabel='iteration', ylabel='bias scale in effect (logits)')
    axes.set_title(f'Bias scale during training, a line for each of the seeds {_seeds(results)}')
    shown = [run.variant for run in results.runs if not run.scales.empty]
    handles = _variant_handles(results, shown)
    if len(entries) > 1:
        handles += [
            Line2D([], [], color='black', linestyle=LINE_STYLES[i % len(LINE_STYLES)], label=name)
            for i, name in enumerate(entries)
        ]
    _legend_beside(axes, handles)
    _save(figure, path)
    return True


def draw_loss_curves(results: StudyResults, path: Path) -> bool:
    """The running mean of the loss of all runs; tells whether there was any."""
    figure, (axes,) = _new_figure(9.0, 5.0)
    shown = [run for run in results.runs if not run.losses.empty]
    if not shown:
        return False
    for run in shown:
        smooth = running_mean(run.losses)
        color = variant_colors(results)[run.variant]
        axes.plot(smooth.index, smooth, color=color, linewidth=1.1, alpha=0.85)
    axes.set(xlabel='iteration', ylabel='training loss (running mean)')
    axes.set_title(f'Training loss, a line for each of the seeds {_seeds(results)}')
    _legend_beside(axes, _variant_handles(results, [run.variant for run in shown]))
    _save(figure, path)
    return True


def draw_differences(results: StudyResults, path: Path, metrics: Sequence[str]) -> bool:
    """Paired differences to the reference with their intervals, by subset; False without any."""
    summary = results.summary
    subsets = [subset.name for subset in results.subsets]
    chosen = summary[
        summary['metric'].isin(metrics)
        & summary['subset'].isin(subsets)
        & (summary['verdict'] != 'reference')
        & (summary['pairs'] > 0)
    ]
    if chosen.empty:
        return False
    variants = [name for name in results.record.variants if name in set(chosen['variant'])]
    height = 1.6 + 0.16 * (len(variants) + 1) * len(subsets)
    figure, panels = _new_figure(11.0, height, columns=len(metrics))
    for axes, metric in zip(panels, metrics, strict=True):
        rows = chosen[chosen['metric'] == metric]
        _draw_forest(axes, rows, subsets, variants, variant_colors(results))
        axes.set_xlabel(f'difference in {metric}')
    first = panels[0]
    first.set_yticks(range(len(subsets)), subsets)
    figure.suptitle(
        f'Difference to {results.record.reference} (mean over seeds, 95 % t interval; hollow: '
        'one seed, no interval)',
        fontsize=11,
    )
    _legend_beside(panels[-1], _variant_handles(results, variants))
    _save(figure, path)
    return True


def _draw_forest(
    axes: Axes,
    rows: pd.DataFrame,
    subsets: Sequence[str],
    variants: Sequence[str],
    colors: dict[str, str],
) -> None:
    """Dots with bars: a line for each subset, within it one for each variant."""
    axes.axvline(0.0, color='black', linewidth=0.8)
    for row in rows.itertuples():
        offset = (variants.index(row.variant) + 0.5) / len(variants) - 0.5
        y = subsets.index(row.subset) + 0.8 * offset
        color = colors[row.variant]
        known = row.pairs > 1
        if known:
            axes.plot([row.low, row.high], [y, y], color=color, linewidth=1.5)
        axes.plot(row.difference, y, 'o', color=color, markersize=4, fillstyle=_fill(known))
    for line in range(1, len(subsets)):
        axes.axhline(line - 0.5, color='lightgrey', linewidth=0.6)
    axes.set_ylim(len(subsets) - 0.5, -0.5)
    axes.tick_params(labelsize=9)


def _fill(is_known: bool) -> str:
    return 'full' if is_known else 'none'


def _new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure that needs no display; sizes in inches."""
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, sharey=True, squeeze=False)[0])


def _variant_handles(results: StudyResults, shown: Sequence[str]) -> list[Line2D]:
    colors = variant_colors(results)
    return [
        Line2D([], [], color=colors[name], label=name)
        for name in results.record.variants
        if name in shown
    ]


def _legend_beside(axes: Axes, handles: Sequence[Line2D]) -> None:
    axes.legend(
        handles=handles, loc='upper left', bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9
    )


def _seeds(results: StudyResults) -> str:
    return ', '.join(map(str, results.record.seeds))


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
