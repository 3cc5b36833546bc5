"""Loss and bias scale of a training, and what is read off their curves."""

import json
import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from ..bias.monitor.history import FILE_NAME, read_history

SPEED, ROUGHNESS = 'iterations to 95 %', 'loss roughness'  # measures of a loss curve
LEAST_SMOOTHING = 5  # points in a running mean, which else takes a twentieth of a curve's
CLEAR_FALL = 4.0  # times the noise of its mean that a loss must fall for its speed to be known
CURVE_POINTS = 60  # of each curve that are kept; a picture shows no more


def read_log(train_dir: Path) -> pd.DataFrame:
    """What mmengine has logged of a training by iteration; of one done twice the later counts."""
    logs = []
    for path in sorted(train_dir.glob('*/vis_data/scalars.json')):
        rows = {}
        for line in path.read_text(errors='replace').splitlines():
            with suppress(ValueError):  # cut off by a kill
                row = json.loads(line)
                if isinstance(row, dict) and 'loss' in row and 'step' in row:
                    rows[int(row['step'])] = row
        logs.append(rows)
    # Folders are named by the clock, which may have gone back; who resumed began later.
    logs.sort(key=lambda rows: min(rows, default=0))
    merged = {step: row for rows in logs for step, row in rows.items()}
    return pd.DataFrame(merged.values(), index=list(merged)).sort_index()


def read_losses(train_dir: Path) -> pd.Series:
    """The loss of :func:`read_log`."""
    return read_log(train_dir).get('loss', pd.Series()).astype(float)


def _window(curve: pd.Series) -> int:
    return max(LEAST_SMOOTHING, round(0.05 * len(curve)))


def running_mean(curve: pd.Series) -> pd.Series:
    """The mean over a centred window of a twentieth of the points, at least five."""
    return curve.rolling(_window(curve), center=True, min_periods=1).mean()


def iterations_to_improve(curve: pd.Series) -> float:
    """When the running mean has first done 95 % of its way from its first to its last value.

    NaN for an empty curve, or one whose fall is not clear of its noise.
    """
    smooth = running_mean(curve)
    noise = (curve - smooth).std() / math.sqrt(_window(curve))
    if smooth.empty or not smooth.iloc[0] - smooth.iloc[-1] > CLEAR_FALL * noise:
        return math.nan
    wanted = smooth.iloc[0] + 0.95 * (smooth.iloc[-1] - smooth.iloc[0])
    return float(smooth.index[(smooth <= wanted).to_numpy().argmax()])


def roughness(curve: pd.Series) -> float:
    """Total variation of the curve around its running mean; NaN for less than two points."""
    return float((curve - running_mean(curve)).diff().abs().sum(min_count=1))


def read_scales(train_dir: Path) -> pd.DataFrame:
    """The scale by iteration, a column for each entry; empty without a readable file."""
    prefix, history = 'bias_scale/', pd.DataFrame()
    with suppress(OSError, ValueError):
        history = read_history(train_dir / FILE_NAME).set_index('iteration').filter(like=prefix)
    if history.empty:  # of no rows too: a run that was killed before its first
        return pd.DataFrame()
    return history.rename(columns=lambda name: name.removeprefix(prefix))


def drift(curve: pd.Series) -> float:
    """How far a curve goes in its last fifth: last value minus that at 80 % of the iterations."""
    return float(curve.iloc[-1] - np.interp(0.8 * curve.index[-1], curve.index, curve))


def curve_measures(losses: pd.Series, scales: pd.DataFrame) -> dict[str, float]:
    """What the report says of a training, for each entry of the scale."""
    return {
        SPEED: iterations_to_improve(losses),
        ROUGHNESS: roughness(losses),
        **{f'final scale ({name})': float(scales[name].iloc[-1]) for name in scales},
        **{f'drift in the last fifth ({name})': drift(scales[name]) for name in scales},
    }


def thinned(curve: pd.Series) -> pd.Series:
    """At most :data:`CURVE_POINTS` points of a curve, its last one among them."""
    step = max(1, math.ceil(len(curve) / CURVE_POINTS))
    return curve.iloc[::-step].iloc[::-1]
