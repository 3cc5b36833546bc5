"""What the end of a run says about the scale."""

import math

import pandas as pd
import pytest

from cmt_bias.bias.monitor.rules import read_ending


def run_with(scales: list[float], learning_rate: float = 1e-4, **others: float) -> pd.DataFrame:
    """A row each 100 iterations."""
    columns = {
        'iteration': [100 * row for row in range(len(scales))],
        'bias_scale/shared': scales,
        'learning_rate': learning_rate,
        'range_low': -math.inf,
        'range_high': math.inf,
    }
    return pd.DataFrame(columns | others)


@pytest.mark.parametrize(
    ('last', 'reading'),
    [
        (3.6, 'above 3.5, stronger modulation was wanted'),
        (3.5, 'between 1.5 and 3.5, the usual strength'),
        (1.5, 'between 1.5 and 3.5, the usual strength'),
        (1.4, 'below 1.5, the weights are of little use'),
        (math.nan, 'not finite'),
    ],
)
def test_the_last_value_is_read(last, reading):
    line = read_ending(run_with([2.5, last]), 'shared')
    assert line.startswith(f'shared 2.5 -> {last:.3g}: {reading}')


def test_a_scale_pushed_one_way_is_still_drifting():
    # Adam's steps all agree: 100 x 1e-4 from row to row.
    line = read_ending(run_with([2.5 + 0.01 * row for row in range(51)]), 'shared')
    assert line.endswith(
        'usual strength; still drifting (in the last fifth of the run +0.1, 100% of the 0.1 its '
        'learning rate allowed), train longer'
    )


def test_a_scale_pushed_to_and_fro_has_settled():
    rows = run_with([2.5 + 0.01 * min(row, 20) + 0.005 * (row % 2) for row in range(51)])
    assert '; settled (in the last fifth' in read_ending(rows, 'shared')


def test_little_movement_at_a_small_rate_is_drift_all_the_same():
    rows = run_with([2.5 + 1e-4 * row for row in range(51)], learning_rate=1e-6)
    assert '; still drifting' in read_ending(rows, 'shared')


def test_accumulated_steps_are_fewer_steps():
    rows = run_with([2.5 + 0.002 * row for row in range(51)])
    assert '; settled' in read_ending(rows, 'shared')
    assert '; still drifting' in read_ending(rows, 'shared', accumulated=4)


@pytest.mark.parametrize(('flat_from', 'state'), [(20, 'settled'), (50, 'still drifting')])
def test_optimizers_unlike_adam_are_measured_by_the_span(flat_from, state):
    rows = run_with([math.exp(min(row, flat_from) / 10) for row in range(51)], learning_rate=1.0)
    assert f'; {state}' in read_ending(rows, 'shared', is_like_adam=False)


def test_too_few_rows_say_nothing_about_drift():
    line = read_ending(run_with([2.5] * 5), 'shared')
    assert line.endswith('strength; too few rows to say whether it has settled, a smaller '
                         'interval gives more')  # fmt: skip


@pytest.mark.parametrize('learning_rate', [0.0, None])
def test_no_learning_rate_and_no_movement(learning_rate):
    rows = run_with([2.5] * 50).assign(learning_rate=learning_rate).astype(float)
    assert read_ending(rows, 'shared').endswith('; it did not move')


def test_a_value_that_was_not_finite_where_the_last_part_begins_has_not_settled():
    rows = run_with([2.5] * 51)
    rows.loc[rows['iteration'] == 4000, 'bias_scale/shared'] = math.nan
    assert read_ending(rows, 'shared').endswith(': between 1.5 and 3.5, the usual strength')


def test_a_bound_is_named():
    rows = run_with([2.5, 3.9], range_low=0.5, range_high=4.0)
    assert 'held by max_scale, so a wider range may lead it further' in read_ending(rows, 'shared')
