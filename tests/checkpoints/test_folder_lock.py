"""One training a folder, until its process is gone."""

import subprocess
import sys
from pathlib import Path

import pytest

from cmt_bias.checkpoints import CheckpointError
from cmt_bias.checkpoints.resumable_checkpoint_hook import LOCK_FILE, lock_folder


@pytest.fixture
def other_process(tmp_path):
    """A process that has the lock of a folder."""
    path = tmp_path / 'run' / LOCK_FILE
    path.parent.mkdir()
    program = (
        'import fcntl, sys\n'
        f'file = open({str(path)!r}, "w")\n'
        'fcntl.lockf(file, fcntl.LOCK_EX)\n'
        'print("process 7 on host", file=file, flush=True)\n'
        'print("locked", flush=True)\n'
        'sys.stdin.read()\n'
    )
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    process = subprocess.Popen([sys.executable, '-c', program], **pipes)
    assert process.stdout.readline() == b'locked\n'
    yield process
    process.kill()
    process.wait()


def test_second_training_in_a_folder_is_refused_and_both_are_named(
    other_process, training_server, tmp_path
):
    folder = tmp_path / 'run'
    training_server.start(folder)
    assert training_server.wait() == 1
    log = (folder / 'output.log').read_text()
    assert f"'{folder}' is in use: process 7 on host trains there" in log
    assert 'Remedy' in log
    assert not list(folder.glob('*.pth')) and not list(folder.glob('losses*'))

    other_process.kill()  # however it ends
    other_process.wait()
    training_server.train(folder, max_epochs=1)
    assert (folder / 'epoch_1.pth').exists()


def test_lock_ends_when_it_is_released_and_does_not_lock_out_its_own_process(tmp_path):
    lock = lock_folder(tmp_path)
    lock_folder(tmp_path)
    lock.release()
    lock.release()


def test_children_do_not_inherit_the_lock(tmp_path):
    lock = lock_folder(tmp_path)
    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    lock.release()
    program = f'import fcntl; fcntl.lockf(open({str(tmp_path / LOCK_FILE)!r}, "w"), 6)'
    assert subprocess.run([sys.executable, '-c', program], check=False).returncode == 0
    child.kill()
    child.wait()


def test_error_is_one_that_the_tools_show_without_a_stack_trace(other_process, tmp_path):
    with pytest.raises(CheckpointError, match='process 7 on host'):
        lock_folder(Path(tmp_path / 'run'))
