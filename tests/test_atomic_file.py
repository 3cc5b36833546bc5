"""Atomic writing of files, and finding the newest whole checkpoint."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.fileio import get_file_backend

from cmt_bias.atomic_file import remove_partial_files, write_atomically
from cmt_bias.checkpoints.latest_checkpoint import (
    find_latest_intact_checkpoint,
    is_intact_checkpoint,
)


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


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path):
    leftover = tmp_path / '.epoch_1.pth.123.partial'
    for path in (leftover, tmp_path / 'epoch_1.pth', tmp_path / '.other'):
        path.touch()
    assert remove_partial_files(tmp_path) == [leftover]
    assert sorted(os.listdir(tmp_path)) == ['.other', 'epoch_1.pth']


def save_checkpoints(directory: Path, *names: str) -> None:
    for name in names:
        torch.save({'meta': {}}, directory / name)


def test_checkpoint_that_is_named_wins_over_higher_numbers(tmp_path: Path):
    save_checkpoints(tmp_path, 'epoch_1.pth', 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/epoch_1.pth\n')
    assert find_latest_intact_checkpoint(tmp_path) == f'{tmp_path}/epoch_1.pth'


def test_numbers_are_compared_as_numbers(tmp_path: Path):
    save_checkpoints(tmp_path, 'epoch_9.pth', 'epoch_10.pth', 'best_mAP_epoch_11.pth')
    assert find_latest_intact_checkpoint(tmp_path) == f'{tmp_path}/epoch_10.pth'


def test_name_template_and_folder_can_be_chosen(tmp_path: Path):
    folder = tmp_path / 'elsewhere'
    folder.mkdir()
    save_checkpoints(folder, 'epoch_9.pth', 'iter_3.pth')
    found = find_latest_intact_checkpoint(tmp_path, folder, 'iter_{}.pth')
    assert found == str(folder / 'iter_3.pth')


def test_run_without_checkpoints_has_none(tmp_path: Path):
    assert find_latest_intact_checkpoint(tmp_path) is None
    assert find_latest_intact_checkpoint(tmp_path / 'missing') is None


@pytest.mark.parametrize('part', [0, 0.3, 0.99])
def test_truncated_checkpoint_is_not_intact(part: float, tmp_path: Path):
    path = tmp_path / 'epoch_1.pth'
    torch.save({'weight': torch.rand(100)}, path)
    assert is_intact_checkpoint(path)
    os.truncate(path, int(path.stat().st_size * part))
    assert not is_intact_checkpoint(path)
