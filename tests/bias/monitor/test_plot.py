"""The picture has every curve, the range, the start and the weights."""

import math

import numpy as np
import pytest
from matplotlib.axes import Axes

from cmt_bias.bias.monitor.history import BiasScaleRecord
from cmt_bias.bias.monitor.plot import draw_bias_scale_curve, save_bias_scale_curve
from cmt_bias.bias.monitor.probes import WeightStatistics

from ..biased_model import NAMES


def records(count: int, num_rows: int = 30) -> list[BiasScaleRecord]:
    """Scales that rise, in a range that is widened half-way."""
    return [
        BiasScaleRecord(
            iteration=100 * row,
            epoch=1 + row // 10,
            scales=tuple(2.5 + 0.02 * row * (index + 1) for index in range(count)),
            scale_range=(-math.inf, 3.0 if row < num_rows / 2 else 4.0),
            weights=None if row == 0 else WeightStatistics(0.2, 0.1, -0.2, 0.3),
        )
        for row in range(num_rows)
    ]


def labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize('granularity', NAMES)
def test_each_entry_has_a_line_and_a_place_in_the_legend(granularity):
    names = NAMES[granularity]
    rows = records(len(names))
    above, below = draw_bias_scale_curve(rows, names).axes

    lines = {line.get_label().split(':')[0]: line for line in above.lines}
    for index, name in enumerate(names):
        np.testing.assert_allclose(lines[name].get_ydata(), [row.scales[index] for row in rows])
        np.testing.assert_allclose(lines[name].get_xdata(), [row.iteration for row in rows])
    assert labels(above) == [
        *(f'{name}: {rows[-1].scales[index]:.3g}' for index, name in enumerate(names)),
        'start',
        'range: [-inf, 4]',
    ]
    styles = {(lines[name].get_color(), lines[name].get_linestyle()) for name in names}
    assert len(styles) == len(names)
    assert labels(below)[::2] == ['lidar: mean', 'camera: mean']
    assert 'iteration' in below.get_xlabel() and 'epochs: 3' in below.get_xlabel()
    assert 'logits' in above.get_ylabel() and 'weights' in below.get_ylabel()


def test_start_and_range_are_where_they_were():
    rows = records(1)
    above, _ = draw_bias_scale_curve(rows, ['shared']).axes
    lines = {line.get_label().split(':')[0]: line for line in above.lines}
    assert (lines['start'].get_xdata(), lines['start'].get_ydata()) == ([0], [2.5])
    np.testing.assert_allclose(lines['range'].get_ydata(), [3.0] * 15 + [4.0] * 15)


def test_a_bound_far_away_does_not_press_the_curve_flat():
    rows = [BiasScaleRecord(row, 1, (2.5,), (0.1, 100.0)) for row in range(4)]
    above, _ = draw_bias_scale_curve(rows, ['shared']).axes
    bottom, top = above.get_ylim()
    assert bottom < 2.5 < top and top - bottom < 2
    assert 'range: [0.1, 100]' in labels(above)


@pytest.mark.parametrize('scales', [(math.nan,), (math.inf,)])
def test_what_is_not_finite_is_no_error(tmp_path, scales):
    rows = [*records(1, 3), BiasScaleRecord(300, 1, scales, (-math.inf, math.inf))]
    save_bias_scale_curve(tmp_path / 'curve.png', rows, ['shared'])
    assert (tmp_path / 'curve.png').read_bytes()[:4] == b'\x89PNG'


def test_no_rows_are_no_error():
    draw_bias_scale_curve([], ['shared'])
