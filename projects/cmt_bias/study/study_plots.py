"""Pictures of a study's report."""

from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..failures import CLEAN
from ..metrics.subset_evaluation import WHOLE
from .study_results import FAILURE, FAILURES, StudyResults
from .training_curves import running_mean

LINE_STYLES: tuple[Any, ...] = ('-', '--', ':', '-.', (0, (6, 1, 1, 1, 1, 1)))


def _figure(height: float) -> Figure:
    return Figure(figsize=(13.0, height), dpi=90, layout='constrained', facecolor='white')


def _colors(results: StudyResults) -> dict[str, str]:
    return {name: f'C{number}' for number, name in enumerate(results.variants)}


def draw_differences(results: StudyResults) -> Figure | None:
    """Differences in mAP to the reference: with intervals, and by part; None without any."""
    variants = [name for name in results.variants if name != results.reference]
    found = pd.DataFrame(index=variants)  # estimates by variant and subset
    for subset in results.subsets():
        found[subset] = [results.compare(name, results.reference, subset) for name in variants]
    if not found.map(lambda each: each.count).any(axis=None):
        return None
    figure = _figure(1.9 + 0.33 * len(variants))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1, 2.2])
    left.axvline(0.0, color='black', linewidth=0.8)
    for subset, color, shift in ((WHOLE, 'C0', -0.15), (FAILURES, 'C3', 0.15)):
        for row, each in enumerate(found.get(subset, ())):
            left.plot([each.low, each.high], [row + shift] * 2, color=color, linewidth=1.5)
            left.plot(each.mean, row + shift, 'o', color=color, markersize=4)
        left.plot([], [], 'o-', color=color, label='all frames' if subset == WHOLE else subset)
    left.legend(loc='lower left', bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    left.set_xlabel(f'difference in mAP to {results.reference}, 95 % interval')
    means = found.map(lambda each: each.mean)
    limit = 1.5 * means.abs().max(axis=None) or 1.0  # numbers are to be read on the darkest
    right.imshow(means, cmap='RdBu', vmin=-limit, vmax=limit, aspect='auto')
    for (row, column), each in np.ndenumerate(found):
        if each.count:
            weight = 'bold' if each.leaves_out_zero else 'normal'
            style = dict(ha='center', va='center', fontsize=8, fontweight=weight)
            right.text(column, row, f'{1000 * each.mean:+.1f}', **style)
    names = [subset.removeprefix(FAILURE) for subset in found]
    right.set_xticks(range(len(names)), names, rotation=40, ha='left')
    right.xaxis.tick_top()
    right.set_xlabel('in thousandths; bold: its interval leaves out 0')
    left.set_yticks(range(len(variants)), variants)
    left.set_ylim(len(variants) - 0.5, -0.5)
    return figure


def draw_curves(results: StudyResults) -> Figure | None:
    """Loss and bias scale over iterations; None without any.

    The loss is the mean over those seeds that all variants have, the scale that of each run.
    """
    curves = results.curves
    if 'loss' not in curves:
        return None
    figure = _figure(4.2)
    loss_axes, scale_axes = figure.subplots(1, 2)
    colors = _colors(results)
    losses = curves['loss'].dropna().unstack(['variant', 'seed']).sort_index()
    variants = losses.columns.unique('variant')
    common = set.intersection(*(set(losses[variant]) for variant in variants))
    for variant in variants:
        smooth = losses[variant].apply(running_mean)  # (iterations, seeds)
        seeds = sorted(common) or list(smooth)
        loss_axes.plot(smooth[seeds].mean(axis=1), color=colors[variant])
    entries = sorted(set(curves) - {'loss'}, key=lambda name: ('shared' not in name, name))
    styles = dict(zip(entries, cycle(LINE_STYLES), strict=False))
    for name, style in styles.items():
        for (variant, _), rows in curves[name].dropna().groupby(['variant', 'seed']):
            curve = rows.droplevel([0, 1]).sort_index()
            scale_axes.plot(curve, ls=style, color=colors[variant], lw=1.1)
    loss_axes.set(xlabel='iteration', ylabel='training loss (running mean)')
    scale_axes.set(xlabel='iteration', ylabel='bias scale in effect (logits)')
    handles = [Line2D([], [], color=color, label=name) for name, color in colors.items()]
    handles += [Line2D([], [], color='black', ls=styles[name], label=name) for name in entries]
    figure.legend(handles=handles, loc='outside right upper', frameon=False, fontsize=9)
    return figure


def draw_trust(results: StudyResults) -> Figure | None:
    """Where trust falls and where attention goes under each failure; None without any."""
    rows = [CLEAN, *results.failures()]
    if len(rows) == 1:
        return None
    figure = _figure(1.8 + 0.34 * len(rows))
    trust, attention = figure.subplots(1, 2, sharey=True)
    trust.axvline(0.0, color='black', linewidth=0.8)
    colors = _colors(results)
    for axes, metric, fill in (
        (trust, 'trust fall, spoiled part', 'full'),
        (trust, 'trust fall, elsewhere', 'none'),
        (attention, 'camera attention', 'full'),
    ):
        axes.grid(axis='x', color='#e5e5e5')
        means = pd.DataFrame([results.means(row, metric) for row in rows])  # (rows, variants)
        for place, (variant, color) in enumerate(colors.items()):
            heights = np.arange(len(rows)) + 0.7 * ((place + 0.5) / len(colors) - 0.5)
            style: dict[str, Any] = dict(color=color, fillstyle=fill, markersize=4.5)
            axes.plot(means[variant], heights, 'o', **style)
    trust.set_xlabel('fall of trust in the failed sensor; full: queries on it, hollow: others')
    attention.set_xlabel('share of attention on cameras')
    trust.set_xscale('symlog', linthresh=0.01)  # an oracle's 2 beside a router's 0.001
    trust.set_yticks(range(len(rows)), [name.removeprefix(FAILURE) for name in rows])
    trust.set_ylim(len(rows) - 0.5, -0.5)
    handles = [Line2D([], [], ls='', marker='o', color=c, label=n) for n, c in colors.items()]
    figure.legend(handles=handles, loc='outside right upper', frameon=False, fontsize=9)
    return figure
