"""The csv history: what is written is read, and a file of any length goes on rightly."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmt_bias.bias.monitor.history import BiasScaleHistory, columns, read_history

NAMES = ['lidar', 'camera']
RECORD = {
    'iteration': 100,
    'epoch': 1,
    'learning_rate': 1.4e-5,
    'bias_scale/lidar': 2.5,
    'bias_scale/camera': -0.125,
    'bias_scale_grad/lidar': 1e-12,
    'bias_scale_grad/camera': -3.0,
    'lidar_mean': 0.25,
    'lidar_std': 0.5,
    'camera_mean': -0.75,
    'camera_std': 0.0,
    'range_low': -math.inf,
    'range_high': 4.0,
    'bias_scale_raw/lidar': 2.5,
    'bias_scale_raw/camera': -0.25,
}


def history_with(path: Path, records: list[dict]) -> BiasScaleHistory:
    history = BiasScaleHistory(path, NAMES)
    history.begin(0)
    for record in records:
        history.append(record)
    return history


def at(*iterations: int) -> list[dict]:
    return [dict(RECORD, iteration=iteration) for iteration in iterations]


def iterations_in(path: Path) -> list[int]:
    return read_history(path)['iteration'].tolist()


@pytest.mark.parametrize(
    'missing', [(), ('learning_rate',), ('bias_scale_grad/lidar', 'bias_scale_grad/camera')]
)
def test_what_is_written_is_read(tmp_path, missing):
    record = dict(RECORD, **dict.fromkeys(missing))
    read = read_history(history_with(tmp_path / 'h.csv', [record]).path)
    assert list(read) == list(RECORD) == columns(NAMES)
    for column, value in record.items():
        assert read[column].tolist() == pytest.approx(
            [math.nan if value is None else value], nan_ok=True
        )


def test_float32_values_are_kept_exactly(tmp_path):
    value = 2.700000047683716  # float32(2.7)
    record = dict(RECORD, **{'bias_scale/lidar': value})
    read = read_history(history_with(tmp_path / 'h.csv', [record]).path)
    assert read['bias_scale/lidar'].item() == pytest.approx(value, rel=1e-8)


@given(cut=st.integers(0, 400), resumed=st.integers(1, 6))
def test_a_file_cut_off_anywhere_goes_on_without_gaps_and_doubles(tmp_path_factory, cut, resumed):
    folder = tmp_path_factory.mktemp('history')
    records = at(*range(1, 7))
    text = history_with(folder / 'h.csv', records).path.read_text()
    # A kill can cut off what comes after the rows before the checkpoint, which were on the disk.
    safe = sum(len(line) + 1 for line in text.splitlines()[: resumed + 1])
    (folder / 'h.csv').write_text(text[: max(len(text) - cut, safe)])

    history = BiasScaleHistory(folder / 'h.csv', NAMES)
    history.begin(resumed)
    assert iterations_in(history.path) == list(range(1, resumed + 1))
    for record in records[resumed:]:
        history.append(record)
    assert history.path.read_text() == text


@given(st.data())
def test_damage_anywhere_costs_the_damaged_rows_only(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp('history')
    content = bytearray(history_with(folder / 'h.csv', at(*range(10, 90))).path.read_bytes())
    header = content.index(b'\n') + 1
    places = data.draw(st.lists(st.integers(header, len(content) - 1), min_size=1, max_size=3))
    for place in places:
        content[place] = data.draw(st.integers(0, 255))
    (folder / 'h.csv').write_bytes(content)

    BiasScaleHistory(folder / 'h.csv', NAMES).begin(1_000_000)
    read = read_history(folder / 'h.csv')
    # A byte may end a row, begin a new one or join two of them.
    assert len(read) >= 80 - 2 * len(places)
    assert read['iteration'].is_monotonic_increasing


def test_of_an_iteration_that_is_there_twice_the_later_row_counts(tmp_path):
    later = dict(RECORD, epoch=7)
    read = read_history(history_with(tmp_path / 'h.csv', [RECORD, *at(200), later]).path)
    assert read[['iteration', 'epoch']].to_numpy().tolist() == [[100, 7], [200, 1]]


def test_a_history_without_raw_values_goes_on(tmp_path):
    path = history_with(tmp_path / 'h.csv', at(1, 2)).path
    older = '\n'.join(line.rsplit(',', 2)[0] for line in path.read_text().splitlines()) + '\n'
    path.write_text(older)
    assert iterations_in(path) == [1, 2]

    history = BiasScaleHistory(path, NAMES)
    history.begin(2)
    history.append(*at(3))
    assert read_history(path)['bias_scale/camera'].tolist() == [-0.125] * 3
    assert read_history(path)['bias_scale_raw/camera'].notna().tolist() == [False, False, True]
    assert [file.name for file in tmp_path.iterdir()] == ['h.csv']


def test_a_missing_file_is_begun_on_resume(tmp_path):
    BiasScaleHistory(tmp_path / 'h.csv', NAMES).begin(500)
    assert iterations_in(tmp_path / 'h.csv') == []


@pytest.mark.parametrize('resumed', [0, 500])
def test_a_file_with_a_header_alone_just_goes_on(tmp_path, resumed):
    path = history_with(tmp_path / 'h.csv', []).path
    history = BiasScaleHistory(path, NAMES)
    history.begin(resumed)
    history.append(*at(600))
    assert iterations_in(path) == [600]
    assert [file.name for file in tmp_path.iterdir()] == ['h.csv']


@pytest.mark.parametrize('other', ['iteration,epoch\n1,1\n', '', 'no csv', '\x00\xff\n' * 9])
def test_a_file_with_other_columns_is_kept_under_another_name(tmp_path, other):
    (tmp_path / 'h.csv').write_text(other)
    (tmp_path / 'h.1.csv').write_text('taken')
    with pytest.raises(ValueError, match=r"h\.csv' does not have the columns of BiasScaleHook"):
        read_history(tmp_path / 'h.csv')
    BiasScaleHistory(tmp_path / 'h.csv', NAMES).begin(500)
    assert (tmp_path / 'h.2.csv').read_text() == other
    assert (tmp_path / 'h.1.csv').read_text() == 'taken'
    assert iterations_in(tmp_path / 'h.csv') == []
