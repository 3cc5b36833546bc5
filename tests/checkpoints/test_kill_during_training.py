"""Training killed by SIGKILL, at random moments and during the save, goes on as if it had not."""

import os
import random
import signal
import time
import zipfile
from pathlib import Path

import pytest

from cmt_bias.checkpoints import ResumableCheckpointHook
from cmt_bias.checkpoints.latest_checkpoint import find_checkpoint_to_resume
from cmt_bias.checkpoints.safe_loading import load_checkpoint_safely

SLOW_TO_SAVE = {'extra_megabytes': 120, 'max_keep_ckpts': 1, 'validate': True, 'save_best': True}


def is_writing_checkpoint(work_dir: Path) -> bool:
    return any(file.stat().st_size > 0 for file in work_dir.glob('.epoch_*.partial'))


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'what the test waits for never happened'
        time.sleep(0.0005)


def test_kills_at_random_moments_do_not_change_the_training(
    training_server, assert_same_training, tmp_path
):
    options = {'extra_megabytes': 20, 'seconds_per_iteration': 0.03, 'max_epochs': 6}
    killed = tmp_path / 'killed'
    moments = random.Random(1)
    for resume in (False, True, True):
        checkpoints = len(list(killed.glob('epoch_*.pth')))
        process = training_server.start(killed, resume=resume, **options)
        wait_until(lambda done=checkpoints: len(list(killed.glob('epoch_*.pth'))) > done)
        time.sleep(moments.uniform(0, 0.3))
        os.kill(process, signal.SIGKILL)
        assert training_server.wait() == -signal.SIGKILL
    training_server.train(killed, resume=True, **options)
    assert_same_training(killed, training_server.uninterrupted(**options))


def test_kill_during_the_save_leaves_the_previous_checkpoint(
    training_server, assert_same_training, tmp_path
):
    killed = tmp_path / 'killed'
    process = training_server.start(killed, **SLOW_TO_SAVE)
    wait_until((killed / 'epoch_1.pth').exists)
    wait_until(lambda: list(killed.glob('.epoch_2.pth.*.partial')))
    wait_until(lambda: is_writing_checkpoint(killed))
    os.kill(process, signal.SIGKILL)
    assert training_server.wait() == -signal.SIGKILL

    assert list(killed.glob('.epoch_2.pth.*.partial')), 'the kill came too late to test anything'
    assert find_checkpoint_to_resume(ResumableCheckpointHook(), str(killed)) == str(
        killed / 'epoch_1.pth'
    )
    assert load_checkpoint_safely(killed / 'epoch_1.pth')['meta']['epoch'] == 1

    training_server.train(killed, resume=True, **SLOW_TO_SAVE)
    assert_same_training(killed, training_server.uninterrupted(**SLOW_TO_SAVE))
    assert not list(killed.glob('.*.partial'))


def test_same_checkpoints_are_kept_as_by_the_stock_hook(training_server, tmp_path):
    options = {'max_keep_ckpts': 2, 'validate': True, 'save_best': True, 'max_epochs': 5}
    names = {}
    for hook in ('CheckpointHook', 'ResumableCheckpointHook'):
        training_server.train(tmp_path / hook, hook=hook, **options)
        names[hook] = sorted(file.name for file in (tmp_path / hook).glob('*_?.pth'))
    ours, stock = names['ResumableCheckpointHook'], names['CheckpointHook']
    epochs = [name for name in ours if name.startswith('epoch')]
    assert epochs == ['epoch_4.pth', 'epoch_5.pth']
    assert epochs == [name for name in stock if name.startswith('epoch')]
    # Which epoch is best differs: validation draws random numbers, and ours gives them back.
    assert [sum(name.startswith('best_mean') for name in kept) for kept in (ours, stock)] == [1, 1]


@pytest.mark.parametrize('damage', ['truncated', 'deleted', 'pointer_empty', 'pointer_missing'])
def test_damaged_newest_checkpoint_is_passed_over(
    damage, training_server, assert_same_training, tmp_path
):
    killed = tmp_path / 'killed'
    training_server.train_until_killed(killed, at_iteration=13)
    newest, pointer = killed / 'epoch_3.pth', killed / 'last_checkpoint'
    assert pointer.read_text() == str(newest)
    if damage == 'truncated':
        os.truncate(newest, newest.stat().st_size // 2)
    elif damage == 'deleted':
        newest.unlink()
    elif damage == 'pointer_empty':
        os.truncate(pointer, 0)
    else:
        pointer.unlink()
    training_server.train(killed, resume=True)
    taken = 'epoch_3.pth' if damage.startswith('pointer') else 'epoch_2.pth'
    assert f"'{killed / taken}', is taken instead" in (killed / 'output.log').read_text()
    assert_same_training(killed, training_server.uninterrupted())


def test_truncated_newest_checkpoint_of_iterations_is_passed_over(
    training_server, assert_same_training, tmp_path
):
    options = {'loop': 'ResumableEpochBasedTrainLoop', 'checkpoint_every_iters': 3}
    training_server.train_until_killed(tmp_path, at_iteration=10, max_keep_ckpts=2, **options)
    os.truncate(tmp_path / 'iter_9.pth', 1000)
    training_server.train(tmp_path, resume=True, max_keep_ckpts=2, **options)
    assert (
        f"'{tmp_path / 'iter_6.pth'}', is taken instead" in (tmp_path / 'output.log').read_text()
    )
    assert_same_training(tmp_path, training_server.uninterrupted(**options))


def test_run_whose_checkpoints_are_all_damaged_stops_and_keeps_them(training_server, tmp_path):
    training_server.train(tmp_path, max_epochs=2)
    for checkpoint in tmp_path.glob('epoch_*.pth'):
        os.truncate(checkpoint, 1000)
    training_server.start(tmp_path, resume=True)
    assert training_server.wait() == 1
    assert 'has checkpoints, but none to resume from' in (tmp_path / 'output.log').read_text()
    assert len(list(tmp_path.glob('epoch_*.pth'))) == 2
    assert len((tmp_path / 'losses_0.txt').read_text().splitlines()) == 8


def test_renamed_run_goes_on_beside_the_run_that_has_its_name_now(
    training_server, assert_same_training, tmp_path
):
    options = {'validate': True, 'save_best': True, 'max_keep_ckpts': 1}
    name, renamed = tmp_path / 'x', tmp_path / 'x_old'
    training_server.train_until_killed(name, at_iteration=9, **options)
    name.rename(renamed)
    training_server.train(name, seed=4, **options)
    files = {path.name: path.stat().st_mtime_ns for path in name.glob('*.pth')}
    training_server.train(renamed, resume=True, **options)
    assert_same_training(renamed, training_server.uninterrupted(**options))
    assert {path.name: path.stat().st_mtime_ns for path in name.glob('*.pth')} == files


def test_resume_without_any_checkpoint_starts_from_the_beginning(
    training_server, assert_same_training, tmp_path
):
    (tmp_path / 'last_checkpoint').touch()
    training_server.train(tmp_path, resume=True)
    assert 'training starts from the beginning' in (tmp_path / 'output.log').read_text()
    assert_same_training(tmp_path, training_server.uninterrupted())


def test_named_truncated_checkpoint_stops_with_cause_and_remedy(training_server, tmp_path):
    training_server.train(tmp_path, max_epochs=1)
    checkpoint = tmp_path / 'epoch_1.pth'
    os.truncate(checkpoint, checkpoint.stat().st_size - 100)
    assert not zipfile.is_zipfile(checkpoint)
    training_server.start(tmp_path / 'resumed', resume=True, load_from=str(checkpoint))
    assert training_server.wait() == 1
    log = (tmp_path / 'resumed' / 'output.log').read_text()
    assert f"checkpoint '{checkpoint}' is truncated or damaged" in log
    assert 'Remedy:' in log
