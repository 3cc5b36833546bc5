"""What is read off the curves of loss and scale, against cases worked out by hand."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cmt_bias.study import training_curves
from cmt_bias.study.training_curves import (
    curve_measures,
    drift,
    iterations_to_improve,
    read_losses,
    read_scales,
    roughness,
)


@pytest.fixture
def window_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A running mean that is the curve itself, so that results are exact."""
    monkeypatch.setattr(training_curves, 'LEAST_SMOOTHING', 1)


@pytest.mark.usefixtures('window_of_one')
def test_iteration_at_which_95_per_cent_of_the_improvement_is_done():
    # From 10 to 0: 95 % is done at 0.5 or below, first at iteration 40.
    losses = pd.Series([10.0, 4.0, 0.6, 0.5, 0.7, 0.0], index=[10, 20, 30, 40, 50, 60])
    assert iterations_to_improve(losses) == 40


@pytest.mark.usefixtures('window_of_one')
def test_loss_that_does_not_improve_has_no_such_iteration():
    assert math.isnan(iterations_to_improve(pd.Series([1.0, 0.5, 1.0], index=[1, 2, 3])))
    assert math.isnan(iterations_to_improve(pd.Series(dtype=float)))


def test_loss_that_falls_within_its_noise_has_no_such_iteration():
    random, steps = np.random.default_rng(0), np.arange(48)
    noise = random.normal(0, 0.2, len(steps))
    assert math.isnan(iterations_to_improve(pd.Series(5 + noise - 0.002 * steps, index=steps)))
    assert iterations_to_improve(pd.Series(5 + noise - 0.05 * steps, index=steps)) > 30


def test_roughness_is_the_total_variation_around_the_running_mean():
    losses = pd.Series([0.0, 2.0, 0.0, 2.0, 2.0])  # means of up to five points follow
    means = losses.rolling(5, center=True, min_periods=1).mean().tolist()
    assert means == pytest.approx([2 / 3, 1.0, 1.2, 1.5, 4 / 3])
    rest = [0 - 2 / 3, 1.0, -1.2, 0.5, 2 / 3]
    expected = sum(abs(b - a) for a, b in pairwise(rest))
    assert roughness(losses) == pytest.approx(expected)
    assert roughness(pd.Series([3.0] * 20)) == 0.0
    assert math.isnan(roughness(pd.Series([3.0])))


def test_drift_is_taken_from_four_fifths_of_the_iterations():
    # At 80 of 100 iterations, between 60 and 100, the line is at 3.
    assert drift(pd.Series([0.0, 2.0, 4.0], index=[0, 60, 100])) == pytest.approx(1.0)
    assert drift(pd.Series([2.5], index=[0])) == 0.0


def write_log(train_dir: Path, time: str, lines: list[str]) -> None:
    path = train_dir / time / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(lines))


def test_of_an_iteration_done_twice_the_later_loss_counts(tmp_path):
    rows = {step: json.dumps(dict(step=step, loss=float(step))) for step in (1, 2, 3)}
    write_log(tmp_path, '20260101_000000', [rows[1], rows[2], '{"step": 3, "lo'])
    redone = json.dumps(dict(step=2, loss=7.0))
    write_log(tmp_path, '20260102_000000', [redone, rows[3], '{"mAP": 0.5, "step": 3}'])
    assert read_losses(tmp_path).to_dict() == {1: 1.0, 2: 7.0, 3: 3.0}
    assert read_losses(tmp_path / 'none').empty


def test_a_clock_that_has_gone_back_makes_no_older_loss_count(tmp_path):
    rows = {step: json.dumps(dict(step=step, loss=float(step))) for step in (1, 2, 3)}
    write_log(tmp_path, '20260102_000000', [rows[1], rows[2], rows[3]])
    write_log(tmp_path, '20260101_000000', [json.dumps(dict(step=2, loss=7.0)), '[1]', '4'])
    assert read_losses(tmp_path).to_dict() == {1: 1.0, 2: 7.0, 3: 3.0}


def test_scales_come_from_the_history_of_the_hook(tmp_path):
    rows = ['iteration,epoch,bias_scale/lidar,bias_scale/camera,lidar_mean']
    rows += ['0,1,2.5,2.5,', '80,1,2.0,3.0,0.1', '100,2,1.5,3.25,0.2']
    (tmp_path / 'bias_scale.csv').write_text('\n'.join(rows) + '\n')
    measures = curve_measures(read_losses(tmp_path), read_scales(tmp_path))
    assert measures['final scale (lidar)'] == 1.5
    assert measures['final scale (camera)'] == 3.25
    assert measures['drift in the last fifth (lidar)'] == pytest.approx(-0.5)
    assert measures['drift in the last fifth (camera)'] == pytest.approx(0.25)


@pytest.mark.parametrize(
    'content', [None, '', 'a,b\n1,2\n', 'iteration\n', 'iteration,bias_scale/lidar\n']
)
def test_run_without_a_readable_history_has_no_scales(tmp_path, content):
    if content is not None:
        (tmp_path / 'bias_scale.csv').write_text(content)
    assert read_scales(tmp_path).empty
    names = curve_measures(read_losses(tmp_path), read_scales(tmp_path))
    assert set(names) == {'iterations to 95 %', 'loss roughness'}
