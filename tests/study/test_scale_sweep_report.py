"""Tables, plot and report of a sweep, from numbers that are known."""

import pandas as pd
import pytest

from cmt_bias.metrics.subset_evaluation import Subset
from cmt_bias.study.scale_sweep import (
    LEARNED,
    PLOT,
    REPORT,
    TABLE,
    best_table,
    draw_sweep,
    score_table,
    sweep_table,
    write_sweep,
)

COUNTS = {'whole': (9, 3), 'day': (6, 2), 'night': (3, 1)}  # frames and scenes
NDS = {
    0.0: dict(whole=0.30, day=0.40, night=0.10),
    2.0: dict(whole=0.32, day=0.44, night=0.10),
    4.0: dict(whole=0.31, day=0.42, night=0.10),
    LEARNED: dict(whole=0.33, day=0.41, night=0.10),
}
HALVES_OF_DAY = {0.0: (0.3, 0.2), 2.0: (0.2, 0.3), 4.0: (0.1, 0.3), LEARNED: (0.2, 0.2)}


def swept(**learned: float) -> pd.DataFrame:
    """The table of a sweep of a model with this learned scale."""
    parts: dict[float | None, list[Subset]] = {}
    for scale, scores in NDS.items():
        kinds = [
            (name, 'whole' if name == 'whole' else 'condition', nds)
            for name, nds in scores.items()
        ]
        kinds += [('day', f'half {n}', nds) for n, nds in enumerate(HALVES_OF_DAY[scale], 1)]
        parts[scale] = [
            Subset(name, kind, *COUNTS[name], 5, ('bus',), {'mAP': nds / 2, 'NDS': nds})
            for name, kind, nds in kinds
        ]
    return sweep_table(learned, parts)


def test_scores_stand_by_scale_and_condition():
    scores = score_table(swept(shared=2.5), 'NDS')
    assert scores.index.tolist() == ['0', '2', '4', 'learned (2.500)']
    assert scores.columns.tolist() == ['whole', 'day', 'night']
    assert scores.loc['4', 'day'] == 0.42
    assert scores.loc['learned (2.500)', 'whole'] == 0.33


def test_best_scale_is_among_the_values_and_the_learned_one():
    best = best_table(swept(shared=2.5), 'NDS').set_index('part')
    assert best['best scale'].tolist() == ['learned (2.500)', '2', 'none: all equal']
    assert best.loc['day', ['NDS there', 'NDS with the learned scale']].tolist() == [0.44, 0.41]
    assert best.loc['day', 'gain'] == '+0.0300'


def test_each_half_of_the_scenes_has_its_own_best_scale():
    table = swept(shared=2.5)
    halves = best_table(table, 'NDS')['best in halves']
    assert halves.tolist() == ['one scene', '0 / 2, 4', 'one scene']


def test_a_best_scale_at_the_edge_of_the_sweep_is_marked():
    table = swept(shared=2.5)
    best = best_table(table[table['scale'] <= 2.5], 'NDS')['best scale']
    assert best.tolist() == ['learned (2.500)', '2 (edge)', 'none: all equal']


@pytest.mark.parametrize('learned', [dict(shared=2.5), dict(lidar=1.5, camera=3.5)])
def test_plot_marks_every_learned_entry_in_every_panel(learned):
    figure = draw_sweep(swept(**learned), learned)
    for axes in figure.axes:
        upright = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
        assert upright == list(learned.values())


def test_report_names_entries_counts_and_limits(tmp_path):
    learned = dict(lidar=1.5, camera=3.25)
    table = swept(**learned)
    write_sweep(table, learned, tmp_path, 'a model', 'a command')
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / TABLE), table, check_dtype=False)
    assert (tmp_path / PLOT).stat().st_size > 10_000
    report = (tmp_path / REPORT).read_text()
    for text in (
        '| camera',
        '3.250',
        '9 (3)',
        'none: all equal',
        '0 / 2, 4',
        'one scene',
        'a command',
    ):
        assert text in report


def test_report_says_how_much_hangs_on_the_choice(tmp_path):
    write_sweep(swept(shared=2.5), dict(shared=2.5), tmp_path, '', '')
    text = (tmp_path / REPORT).read_text()
    assert '+0.0300' in text
    assert 'moves the NDS of no part by more than 0.0400' in text
