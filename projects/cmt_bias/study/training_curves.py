"""Loss and bias scale of a training, and what is read off their curves."""

import json
import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from ..bias.monitor.history import FILE_NAME, read_history

LEAST_SMOOTHING = 5
"""Points in a running mean, which else takes a twentieth of a curve's."""
SPEED, ROUGHNESS = 'iterations to 95 %', 'loss roughness'
"""Names of the measures of a loss curve."""
CLEAR_FALL = 4.0
"""Times the noise of the running mean that a loss must fall for its speed to mean something."""
CURVE_POINTS = 60
"""Points that are kept of each curve; a picture shows no more."""


def read_log(train_dir: Path) -> pd.DataFrame:
    """What mmengine has logged of a training: loss, learning rate and so on by iteration.

    A resumed training has several logs; of an iteration that was done twice the later one counts.
    """
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
    try:
        history = read_history(train_dir / FILE_NAME).set_index('iteration')
    except (OSError, ValueError):
        history = pd.DataFrame()
    if history.empty:  # of no rows too: a run that was killed before its first
        return pd.DataFrame()
    prefix = 'bias_scale/'
    return history.filter(like=prefix).rename(columns=lambda name: name.removeprefix(prefix))


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
