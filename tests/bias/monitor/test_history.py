"""The csv history: what is written is read, and a file of any length goes on rightly."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmt_bias.bias.monitor.history import BiasScaleHistory, BiasScaleRecord
from cmt_bias.bias.monitor.probes import WeightStatistics

NAMES = ['lidar', 'camera']
RECORD = BiasScaleRecord(
    iteration=100,
    epoch=1,
    scales=(2.5, -0.125),
    scale_range=(-math.inf, 4.0),
    learning_rate=1.4e-5,
    gradients=(1e-12, -3.0),
    weights=WeightStatistics(0.25, 0.5, -0.75, 0.0),
)


def history_with(path: Path, records: list[BiasScaleRecord]) -> BiasScaleHistory:
    history = BiasScaleHistory(path, NAMES)
    history.begin(0)
    for record in records:
        history.append(record)
    return history


@pytest.mark.parametrize(
    'record',
    [
        RECORD,
        replace(RECORD, learning_rate=None),
        replace(RECORD, gradients=None),
        replace(RECORD, weights=None),
        BiasScaleRecord(0, 1, (1.0, 2.0), (-math.inf, math.inf)),
        replace(RECORD, scales=(math.inf, 1.0)),
    ],
)
def test_what_is_written_is_read(tmp_path, record):
    history = history_with(tmp_path / 'h.csv', [RECORD, record])
    assert history.read() == [RECORD, record]


def test_the_header_says_what_the_columns_are(tmp_path):
    history = history_with(tmp_path / 'h.csv', [])
    assert history.path.read_text() == (
        'iteration,epoch,learning_rate,bias_scale/lidar,bias_scale/camera,'
        'bias_scale_grad/lidar,bias_scale_grad/camera,'
        'lidar_mean,lidar_std,camera_mean,camera_std,range_low,range_high\n'
    )


def test_float32_values_are_kept_exactly(tmp_path):
    value = 2.700000047683716  # float32(2.7)
    (record,) = history_with(tmp_path / 'h.csv', [replace(RECORD, scales=(value, value))]).read()
    assert record.scales[0] == pytest.approx(value, rel=1e-8)


@given(cut=st.integers(0, 400), resumed=st.integers(1, 6))
def test_a_file_cut_off_anywhere_goes_on_without_gaps_and_doubles(tmp_path_factory, cut, resumed):
    folder = tmp_path_factory.mktemp('history')
    records = [replace(RECORD, iteration=iteration) for iteration in range(1, 7)]
    text = history_with(folder / 'h.csv', records).path.read_text()
    # A kill can cut off what comes after the rows before the checkpoint, which were on the disk.
    safe = sum(len(line) + 1 for line in text.splitlines()[: resumed + 1])
    (folder / 'h.csv').write_text(text[: max(len(text) - cut, safe)])

    history = BiasScaleHistory(folder / 'h.csv', NAMES)
    history.begin(resumed)
    assert history.read() == records[:resumed]
    for record in records[resumed:]:
        history.append(record)
    assert history.path.read_text() == text


def test_an_untouched_file_is_not_written_again(tmp_path):
    history = history_with(tmp_path / 'h.csv', [RECORD])
    before = history.path.stat()
    history.begin(RECORD.iteration)
    assert history.path.stat().st_ino == before.st_ino


def test_a_missing_file_is_begun_on_resume(tmp_path):
    history = BiasScaleHistory(tmp_path / 'h.csv', NAMES)
    history.begin(500)
    assert history.read() == []


@pytest.mark.parametrize('other', ['iteration,epoch\n1,1\n', '', 'no csv'])
def test_a_file_with_other_columns_is_kept_under_another_name(tmp_path, other):
    (tmp_path / 'h.csv').write_text(other)
    (tmp_path / 'h.1.csv').write_text('taken')
    history = BiasScaleHistory(tmp_path / 'h.csv', NAMES)
    history.begin(500)
    assert (tmp_path / 'h.2.csv').read_text() == other
    assert (tmp_path / 'h.1.csv').read_text() == 'taken'
    assert history.read() == []
