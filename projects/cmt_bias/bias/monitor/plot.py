"""Draw the path of the bias scale and of the weights over a training run."""

import io
import math
import os
import re
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...atomic_file import write_atomically
from .history import BiasScaleRecord
from .probes import MODALITIES

FILE_NAME = 'bias_scale_curve.png'
_COLORS = {'lidar': '#0b5fa5', 'camera': '#d9731a'}
_SHARED_COLOR = '#333333'
_LEAST_SPAN = 1.0


def save_bias_scale_curve(
    path: str | os.PathLike[str], records: Sequence[BiasScaleRecord], scale_names: Sequence[str]
) -> None:
    """Draw the history into a PNG file, which is replaced at once.

    Args:
        path: The file.
        records: Rows of the history.
        scale_names: Name of each entry of the scale.
    """
    figure = draw_bias_scale_curve(records, scale_names)
    picture = io.BytesIO()
    figure.savefig(picture, format='png')
    write_atomically(path, picture.getvalue())


def draw_bias_scale_curve(
    records: Sequence[BiasScaleRecord], scale_names: Sequence[str]
) -> Figure:
    """Draw the scale above, with its range and its start, and the weights below.

    Args:
        records: Rows of the history.
        scale_names: Name of each entry of the scale.

    Returns:
        The figure, with a canvas that needs no display.
    """
    figure = Figure(figsize=(9, 6.4), dpi=120, facecolor='white')
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.subplots_adjust(left=0.1, right=0.8, bottom=0.08, top=0.95, hspace=0.06)
    _draw_scales(above, records, scale_names)
    _draw_weights(below, records)
    for axes in (above, below):
        axes.grid(color='#dddddd', linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right']].set_visible(False)
        # Beside the axes, where no curve can run under it.
        axes.legend(loc='center left', bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    epochs = f' (epochs: {records[-1].epoch})' if records else ''
    below.set_xlabel(f'training iteration{epochs}')
    return figure


def _draw_scales(
    axes: Axes, records: Sequence[BiasScaleRecord], scale_names: Sequence[str]
) -> None:
    iterations = [record.iteration for record in records]
    for index, name in enumerate(scale_names):
        color, style = _line_style(name, scale_names)
        values = [record.scales[index] for record in records]
        label = name if not values else f'{name}: {values[-1]:.3g}'
        marker = '.' if len(records) < 20 else ''
        axes.plot(iterations, values, color=color, linestyle=style, marker=marker, label=label)
        if records:
            axes.plot(
                iterations[:1],
                values[:1],
                color=_SHARED_COLOR,
                marker='o',
                markersize=6,
                markerfacecolor='white',
                linestyle='',
                label='start' if index == len(scale_names) - 1 else None,
                zorder=3,
            )
    if records:
        _draw_range(axes, records)
        axes.set_ylim(*_limits(records))
    axes.set_ylabel('bias scale in effect\n(logits for a weight of 1)')
    axes.set_title('Bias scale and weights over the training run', loc='left', fontsize=11)


def _draw_range(axes: Axes, records: Sequence[BiasScaleRecord]) -> None:
    """Bounds as steps: a schedule may move them. Open sides are not drawn."""
    iterations = [record.iteration for record in records]
    low, high = records[-1].scale_range
    label: str | None = f'range: [{low:g}, {high:g}]'
    for side in (0, 1):
        bounds = [
            bound if math.isfinite(bound) else math.nan
            for bound in (record.scale_range[side] for record in records)
        ]
        if any(math.isfinite(bound) for bound in bounds):
            axes.plot(
                iterations,
                bounds,
                color='#b02a2a',
                linestyle=(0, (5, 3)),
                linewidth=1.0,
                drawstyle='steps-pre',
                label=label,
            )
            label = None


def _limits(records: Sequence[BiasScaleRecord]) -> tuple[float, float]:
    """Limits of the axis: all values, and those bounds that do not press the curves flat."""
    values = [scale for record in records for scale in record.scales if math.isfinite(scale)]
    lowest, highest = min(values, default=0.0), max(values, default=1.0)
    reach = max(highest - lowest, _LEAST_SPAN)
    for bound in (bound for record in records for bound in record.scale_range):
        if lowest - reach <= bound <= highest + reach:
            values.append(bound)
    middle = (lowest + highest) / 2
    bottom = min([*values, middle - _LEAST_SPAN / 2])
    top = max([*values, middle + _LEAST_SPAN / 2])
    margin = 0.05 * (top - bottom)
    return bottom - margin, top + margin


def _draw_weights(axes: Axes, records: Sequence[BiasScaleRecord]) -> None:
    """Mean of the weights of each modality, in a band of one standard deviation."""
    seen = [(record.iteration, record.weights) for record in records if record.weights]
    iterations = [iteration for iteration, _ in seen]
    for modality in MODALITIES:
        means = [getattr(weights, f'{modality}_mean') for _, weights in seen]
        deviations = [getattr(weights, f'{modality}_std') for _, weights in seen]
        color = _COLORS[modality]
        axes.plot(iterations, means, color=color, label=f'{modality}: mean')
        axes.fill_between(
            iterations,
            [mean - deviation for mean, deviation in zip(means, deviations, strict=True)],
            [mean + deviation for mean, deviation in zip(means, deviations, strict=True)],
            color=color,
            alpha=0.18,
            linewidth=0,
            label=f'{modality}: ± 1 std',
        )
    axes.axhline(0, color='#888888', linewidth=0.8)
    axes.set_ylim(-1.05, 1.05)
    axes.set_ylabel('weights of the queries\n(-1: avoid, 1: prefer)')


def _line_style(name: str, scale_names: Sequence[str]) -> tuple:
    """Color by layer and dashes for the camera; where there are no layers, color by modality."""
    modality = next((modality for modality in MODALITIES if name.endswith(modality)), '')
    layers = [_layer_of(other) for other in scale_names]
    layer = _layer_of(name)
    if layer is None:
        return _COLORS.get(modality, _SHARED_COLOR), 'solid'
    last = max(other for other in layers if other is not None)
    color = colormaps['viridis'](0.9 * layer / max(last, 1))
    return color, 'dashed' if modality == 'camera' else 'solid'


def _layer_of(name: str) -> int | None:
    match = re.match(r'layer(\d+)', name)
    return int(match[1]) if match else None
