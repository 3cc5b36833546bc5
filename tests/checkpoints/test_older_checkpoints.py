"""Checkpoints from before the resume state became plain data still load and resume.

tests/data/run_before_plain_state: a run of training_server.py (validate, save_best,
max_keep_ckpts=2), killed after iteration 13, as the package wrote it then, and the losses of the
same run when nobody killed it.
"""

import shutil
from pathlib import Path

import pytest

from cmt_bias.checkpoints.safe_loading import load_checkpoint_safely

RUN = Path(__file__).parents[1] / 'data' / 'run_before_plain_state'
OPTIONS = {'validate': True, 'save_best': True, 'max_keep_ckpts': 2}


def losses(file: Path) -> dict[int, float]:
    """The latest loss of each iteration."""
    lines = file.read_text().split()
    return dict(zip(map(int, lines[::2]), map(float.fromhex, lines[1::2]), strict=True))


def test_run_goes_on_to_where_an_uninterrupted_one_ended(training_server, tmp_path):
    run = tmp_path / 'moved'
    shutil.copytree(RUN, run)
    training_server.train(run, resume=True, **OPTIONS)
    log = (run / 'output.log').read_text()
    assert 'is taken instead' not in log and 'without random state' not in log
    # Written on another machine, so not bit for bit.
    expected = losses(RUN / 'losses_uninterrupted.txt')
    assert losses(run / 'losses_0.txt') == pytest.approx(expected, rel=1e-4)
    kept = sorted(path.name for path in run.glob('*_?.pth'))
    # The best checkpoint of then, which it names in another folder, was known.
    assert kept == ['best_mean_epoch_3.pth', 'epoch_3.pth', 'epoch_4.pth']


def test_weights_and_moments_are_those_that_were_saved():
    loaded = load_checkpoint_safely(RUN / 'epoch_3.pth')
    assert loaded['meta']['epoch'] == 3 and loaded['meta']['iter'] == 12
    assert set(loaded['state_dict']) >= {'layers.0.weight', 'layers.1.running_mean', 'ballast'}
    assert loaded['message_hub']['runtime_info']['keep_ckpt_ids'] == [2, 3]
    assert loaded['message_hub']['runtime_info']['best_ckpt'].endswith('best_mean_epoch_3.pth')
