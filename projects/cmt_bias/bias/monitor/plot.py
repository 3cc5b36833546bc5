"""Draw the path of the bias scale and of the weights over a training run."""

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...ops import MODALITIES

FILE_NAME = 'bias_scale_curve.png'
_COLORS = {'lidar': '#0b5fa5', 'camera': '#d9731a'}
_LEAST_SPAN = 1.0


def draw_bias_scale_curve(history: pd.DataFrame) -> Figure:
    """Draw the scale above, with its range and its start, and the weights below."""
    figure = Figure(figsize=(9, 6.4), dpi=120, facecolor='white')
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.subplots_adjust(left=0.1, right=0.8, bottom=0.08, top=0.95, hspace=0.06)
    history = history.set_index('iteration').replace([np.inf, -np.inf], np.nan)
    _draw_scales(above, history)
    _draw_weights(below, history)
    for axes in (above, below):
        axes.grid(color='#dddddd', linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
        # Beside the axes, where no curve can run under it.
        axes.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    epochs = f' (epochs: {history["epoch"].iloc[-1]:.0f})' if len(history) else ''
    below.set_xlabel(f'training iteration{epochs}')
    return figure


def _draw_scales(axes: Axes, history: pd.DataFrame) -> None:
    scales = history.filter(like='bias_scale/')
    layers = {re.sub(r'\D', '', name) for name in scales} - {''}
    for column, values in scales.items():
        name = str(column).removeprefix('bias_scale/')
        camera, layer = name.endswith('camera'), re.match(r'layer(\d+)', name)
        # Color by layer and dashes for the camera; where there are no layers, color by modality.
        color: Any = _COLORS.get(name, '#333333')
        if layer:
            color = colormaps['viridis'](0.9 * int(layer[1]) / max(len(layers) - 1, 1))
        label = f'{name}: {values.iloc[-1]:.3g}' if len(values) else name
        style, marker = '--' if layer and camera else '-', '.' if len(values) < 20 else ''
        axes.plot(values, style, color=color, label=label, marker=marker)
    start = axes.plot(scales.iloc[:1], 'o', color='#333333', markerfacecolor='white', zorder=3)
    start[0].set_label('start')
    bounds = history[['range_low', 'range_high']]
    for column in bounds.columns[bounds.notna().any()]:  # open sides are not drawn
        # As steps: a schedule may move them.
        axes.plot(bounds[column], '--', color='#b02a2a', linewidth=1, drawstyle='steps-pre')
    if bounds.notna().any(axis=None):
        low, high = bounds.iloc[-1].fillna({'range_low': -np.inf, 'range_high': np.inf})
        axes.lines[-1].set_label(f'range: [{low:g}, {high:g}]')
    if scales.notna().any(axis=None):
        # Of the bounds those nearby; others would press the curves flat.
        lowest, highest = scales.min(axis=None), scales.max(axis=None)
        span = max(highest - lowest, _LEAST_SPAN)
        near = bounds.stack().loc[lambda bound: bound.between(lowest - span, highest + span)]
        middle = (lowest + highest) / 2
        shown = [*near, middle - span / 2, middle + span / 2]
        margin = 0.05 * (max(shown) - min(shown))
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.set_ylabel('bias scale in effect\n(logits for a weight of 1)')
    axes.set_title('Bias scale and weights over the training run', loc='left', fontsize=11)


def _draw_weights(axes: Axes, history: pd.DataFrame) -> None:
    """Mean of the weights of each modality, in a band of one standard deviation."""
    seen = history.dropna(subset=['lidar_mean', 'camera_mean'])
    for modality in MODALITIES:
        mean, deviation = seen[f'{modality}_mean'], seen[f'{modality}_std']
        (line,) = axes.plot(mean, color=_COLORS[modality], label=f'{modality}: mean')
        band = axes.fill_between(seen.index, mean - deviation, mean + deviation, alpha=0.18)
        band.set(color=line.get_color(), linewidth=0, label=f'{modality}: ± 1 std')
    axes.axhline(0, color='#888888', linewidth=0.8)
    axes.set_ylim(-1.05, 1.05)
    axes.set_ylabel('weights of the queries\n(-1: avoid, 1: prefer)')
