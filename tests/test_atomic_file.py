"""Atomic writing of files, and what killed writers leave."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.fileio import get_file_backend

from cmt_bias import atomic_file, file_lock
from cmt_bias.atomic_file import remove_partial_files, write_atomically


def test_content_is_written_and_nothing_else_is_left(tmp_path: Path):
    target = tmp_path / 'new_folder' / 'file.bin'
    write_atomically(target, b'one')
    write_atomically(target, b'two')
    assert target.read_bytes() == b'two'
    assert os.listdir(target.parent) == ['file.bin']


def test_failure_keeps_the_old_file_and_removes_the_partial_one(tmp_path: Path):
    target = tmp_path / 'file.bin'
    write_atomically(target, b'old')
    with pytest.raises(TypeError):
        write_atomically(target, 'not bytes')  # type: ignore[arg-type]
    assert target.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file.bin']


def test_backend_of_mmengine_writes_by_renaming(tmp_path: Path):
    target = tmp_path / 'file.bin'
    target.write_bytes(b'old')
    os.link(target, tmp_path / 'second_name')
    get_file_backend(backend_args={'backend': 'atomic_local'}).put(b'new', target)
    assert target.read_bytes() == b'new'
    assert (tmp_path / 'second_name').read_bytes() == b'old'  # not written into


def test_backend_removes_a_file_when_the_next_one_is_complete(tmp_path: Path):
    """mmengine's checkpoint hook removes first, with another instance than it writes with."""
    old, new = tmp_path / 'epoch_1.pth', tmp_path / 'epoch_2.pth'
    args = {'backend': 'atomic_local'}
    get_file_backend(backend_args=args).put(b'old', old)
    get_file_backend(backend_args=args).remove(str(old))
    get_file_backend(backend_args=args).put(b'of another run', tmp_path / 'other' / 'epoch_1.pth')
    assert old.exists()
    get_file_backend(backend_args=args).put(b'new', new)
    assert sorted(os.listdir(tmp_path)) == ['epoch_2.pth', 'other']
    get_file_backend(backend_args=args).remove(str(new))
    get_file_backend(backend_args=args).put(b'again', new)
    assert new.read_bytes() == b'again'


def leave_partial_file(folder: Path, name: str, wait: bool) -> subprocess.Popen:
    """A process that is in the middle of writing a file, or (not waiting) was killed there."""
    program = (
        'import os, sys\n'
        'from alone import atomic_file as a\n'
        'a.os.replace = lambda *_: (print("writing", flush=True), sys.stdin.read())\n'
        f'a.write_atomically({str(folder / name)!r}, b"half")\n'
    )
    environment = {**os.environ, 'PYTHONPATH': str(folder.parent)}
    writer = subprocess.Popen(
        [sys.executable, '-c', program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert writer.stdout.readline() == b'writing\n'
    if not wait:
        writer.kill()
        writer.wait()
    return writer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder, beside it the module in another package, to be imported by itself."""
    (tmp_path / 'alone').mkdir()
    for module in (atomic_file, file_lock):
        source = Path(module.__file__)
        shutil.copy(source, tmp_path / 'alone' / source.name)
    (tmp_path / 'folder').mkdir()
    return tmp_path / 'folder'


def test_leftovers_of_killed_processes_are_removed_but_nothing_else(folder: Path):
    leave_partial_file(folder, 'epoch_1.pth', wait=False)
    (leftover,) = folder.iterdir()
    others = ['.movie.123.partial', '.other', 'epoch_1.pth', 'x.cmt_bias.partial']
    for name in others:
        (folder / name).write_text('a')
    assert remove_partial_files(folder) == [leftover]
    assert sorted(os.listdir(folder)) == sorted(others)


def test_file_that_a_living_process_is_writing_stays(folder: Path):
    writer = leave_partial_file(folder, 'epoch_1.pth', wait=True)
    assert remove_partial_files(folder) == []
    assert len(os.listdir(folder)) == 1
    writer.kill()
    writer.wait()
    assert len(remove_partial_files(folder)) == 1


def test_full_disk_loses_nothing(tmp_path: Path):
    target = tmp_path / 'epoch_1.pth'
    write_atomically(target, b'old')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError):
            write_atomically(target, bytes(10000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert target.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['epoch_1.pth']
