"""Loss and bias scale of a training, and what is read off their curves."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from ..bias.monitor.history import FILE_NAME, read_history

LEAST_SMOOTHING = 5
"""Points in a running mean, which else takes a twentieth of a curve's."""
CURVE_POINTS = 60
"""Points that are kept of each curve; a picture shows no more."""


def read_losses(train_dir: Path) -> pd.Series:
    """The logged loss over iterations.

    Args:
        train_dir: Work directory of the training; a resumed one has several logs, and of an
            iteration that was done twice the later one counts.

    Returns:
        Loss by iteration, ascending; empty without a log.
    """
    logs = []
    for path in sorted(train_dir.glob('*/vis_data/scalars.json')):
        losses = {}
        for line in path.read_text(errors='replace').splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # cut off by a kill
                continue
            if isinstance(row, dict) and 'loss' in row and 'step' in row:
                losses[int(row['step'])] = float(row['loss'])
        logs.append(losses)
    # Folders are named by the clock, which may have gone back; who resumed began later.
    logs.sort(key=lambda losses: min(losses, default=0))
    merged = {step: loss for losses in logs for step, loss in losses.items()}
    return pd.Series(merged, dtype=float).sort_index()


def running_mean(curve: pd.Series) -> pd.Series:
    """The mean over a centred window of a twentieth of the points, at least five."""
    window = max(LEAST_SMOOTHING, round(0.05 * len(curve)))
    return curve.rolling(window, center=True, min_periods=1).mean()


def iterations_to_improve(curve: pd.Series) -> float:
    """When the running mean has done 95 % of its way from its first to its last value.

    Returns:
        The first such iteration; NaN for an empty curve, or one that does not end lower.
    """
    smooth = running_mean(curve)
    if smooth.empty or not smooth.iloc[-1] < smooth.iloc[0]:
        return float('nan')
    wanted = smooth.iloc[0] + 0.95 * (smooth.iloc[-1] - smooth.iloc[0])
    return float(smooth.index[(smooth <= wanted).to_numpy().argmax()])


def roughness(curve: pd.Series) -> float:
    """Total variation of the curve around its running mean; NaN for less than two points."""
    if len(curve) < 2:
        return float('nan')
    return float((curve - running_mean(curve)).diff().abs().sum())


def loss_measures(curve: pd.Series) -> dict[str, float]:
    """What the report says of a loss curve."""
    return {
        'iterations to 95 %': iterations_to_improve(curve),
        'loss roughness': roughness(curve),
    }


def read_scales(train_dir: Path) -> pd.DataFrame:
    """The bias scale over iterations.

    Args:
        train_dir: Work directory of the training, with the csv file of ``BiasScaleHook``.

    Returns:
        A column for each entry of the scale, by iteration; empty without a readable file.
    """
    try:
        history = read_history(train_dir / FILE_NAME).set_index('iteration')
    except (OSError, ValueError):
        return pd.DataFrame()
    prefix = 'bias_scale/'
    return history.filter(like=prefix).rename(columns=lambda name: name.removeprefix(prefix))


def drift(curve: pd.Series) -> float:
    """How far a curve goes in its last fifth: last value minus that at 80 % of the iterations."""
    return float(curve.iloc[-1] - np.interp(0.8 * curve.index[-1], curve.index, curve))


def scale_measures(scales: pd.DataFrame) -> dict[str, float]:
    """What the report says of the scale, for each of its entries."""
    final = {f'final scale ({name})': float(scales[name].iloc[-1]) for name in scales}
    drifts = {f'drift in the last fifth ({name})': drift(scales[name]) for name in scales}
    return {**final, **drifts}


def thinned(curve: pd.Series) -> pd.Series:
    """At most :data:`CURVE_POINTS` points of a curve, its last one among them."""
    step = max(1, -(-len(curve) // CURVE_POINTS))
    return curve.iloc[::-1].iloc[::step].iloc[::-1]
