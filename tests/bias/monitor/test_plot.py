"""The picture has every curve, the range, the start and the weights."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from cmt_bias.atomic_file import save_figure
from cmt_bias.bias.monitor.history import columns
from cmt_bias.bias.monitor.plot import draw_bias_scale_curve

from ..biased_model import NAMES


def history(names: list[str], num_rows: int = 30, **others: object) -> pd.DataFrame:
    """Scales that rise, in a range that is widened half-way."""
    rows = np.arange(num_rows)
    values = {
        'iteration': 100 * rows,
        'epoch': 1 + rows // 10,
        'range_low': -np.inf,
        'range_high': np.where(rows < num_rows / 2, 3.0, 4.0),
        'lidar_mean': np.where(rows == 0, np.nan, 0.2),
        'lidar_std': 0.1,
        'camera_mean': np.where(rows == 0, np.nan, -0.2),
        'camera_std': 0.3,
    }
    scales = {f'bias_scale/{name}': 2.5 + 0.02 * rows * (i + 1) for i, name in enumerate(names)}
    return pd.DataFrame(values | scales | others, columns=columns(names))


def labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize('granularity', NAMES)
def test_each_entry_has_a_line_and_a_place_in_the_legend(granularity):
    names = NAMES[granularity]
    rows = history(names)
    above, below = draw_bias_scale_curve(rows).axes

    lines = {line.get_label().split(':')[0]: line for line in above.lines}
    for name in names:
        np.testing.assert_allclose(lines[name].get_ydata(), rows[f'bias_scale/{name}'])
        np.testing.assert_allclose(lines[name].get_xdata(), rows['iteration'])
    assert labels(above) == [
        *(f'{name}: {rows[f"bias_scale/{name}"].iloc[-1]:.3g}' for name in names),
        'start',
        'range: [-inf, 4]',
    ]
    styles = {(lines[name].get_color(), lines[name].get_linestyle()) for name in names}
    assert len(styles) == len(names)
    assert labels(below)[::2] == ['lidar: mean', 'camera: mean']
    assert 'iteration' in below.get_xlabel() and 'epochs: 3' in below.get_xlabel()
    assert 'logits' in above.get_ylabel() and 'weights' in below.get_ylabel()


def test_start_and_range_are_where_they_were():
    above, _ = draw_bias_scale_curve(history(['shared'])).axes
    lines = {line.get_label().split(':')[0]: line for line in above.lines}
    assert (lines['start'].get_xdata(), lines['start'].get_ydata()) == ([0], [2.5])
    np.testing.assert_allclose(lines['range'].get_ydata(), [3.0] * 15 + [4.0] * 15)


def test_a_bound_far_away_does_not_press_the_curve_flat():
    rows = history(['shared'], 4, range_low=0.1, range_high=100.0)
    above, _ = draw_bias_scale_curve(rows).axes
    bottom, top = above.get_ylim()
    assert bottom < 2.5 < top and top - bottom < 2
    assert 'range: [0.1, 100]' in labels(above)


@pytest.mark.parametrize(('low', 'high'), [(1.6, 3.2), (None, 3.4), (2.0, None)])
def test_bounds_near_the_curve_are_in_the_picture(low, high):
    rows = history(['shared'], 4, range_low=low or -math.inf, range_high=high or math.inf)
    bottom, top = draw_bias_scale_curve(rows).axes[0].get_ylim()
    assert low is None or bottom < low
    assert high is None or top > high
    assert top - bottom < 3


@pytest.mark.parametrize('scale', [math.nan, math.inf])
def test_what_is_not_finite_is_no_error(tmp_path, scale):
    rows = history(['shared'], 4)
    rows.loc[3, 'bias_scale/shared'] = scale
    save_figure(draw_bias_scale_curve(rows), tmp_path / 'curve.png')
    save_figure(draw_bias_scale_curve(rows.iloc[3:]), tmp_path / 'curve.png')
    assert (tmp_path / 'curve.png').read_bytes()[:4] == b'\x89PNG'


def test_no_rows_are_no_error():
    draw_bias_scale_curve(history(['shared'], 0))
