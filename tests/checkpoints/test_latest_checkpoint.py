"""Finding the checkpoint from which a run goes on."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.registry import HOOKS

from cmt_bias.checkpoints.latest_checkpoint import (
    find_checkpoint_to_resume,
    is_intact_checkpoint,
)
from cmt_bias.checkpoints.safe_loading import CheckpointError


def save_checkpoints(directory: Path, *names: str) -> None:
    for name in names:
        torch.save({'state_dict': {'weight': torch.ones(99)}, 'meta': {}}, directory / name)


def find(work_dir: Path, hook_type: str = 'ResumableCheckpointHook', **settings) -> str | None:
    hook = HOOKS.build({'type': hook_type, **settings})
    return find_checkpoint_to_resume(hook, str(work_dir))


def test_checkpoint_that_is_named_wins_over_higher_numbers(tmp_path: Path):
    save_checkpoints(tmp_path, 'epoch_1.pth', 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/epoch_1.pth\n')
    assert find(tmp_path) == f'{tmp_path}/epoch_1.pth'


def test_numbers_are_compared_as_numbers(tmp_path: Path):
    save_checkpoints(tmp_path, 'epoch_9.pth', 'epoch_10.pth', 'best_mAP_epoch_11.pth')
    assert find(tmp_path) == f'{tmp_path}/epoch_10.pth'


@pytest.mark.parametrize(
    'template', ['epoch_{:03d}.pth', 'epoch_{0}.pth', 'a+{}b.pth', '{}', 'run{{1}}_{}.pth']
)
def test_every_template_that_python_formats_is_understood(template, tmp_path: Path):
    save_checkpoints(tmp_path, template.format(9), template.format(10), 'best_mAP_epoch_11.pth')
    found = find(tmp_path, filename_tmpl=template)
    assert found == str(tmp_path / template.format(10))


def test_run_without_checkpoints_has_none(tmp_path: Path):
    assert find(tmp_path) is None
    assert find(tmp_path / 'missing') is None


@pytest.mark.parametrize('part', [0, 0.3, 0.99])
def test_truncated_checkpoint_is_not_intact(part: float, tmp_path: Path):
    path = tmp_path / 'epoch_1.pth'
    save_checkpoints(tmp_path, path.name)
    assert is_intact_checkpoint(path)
    os.truncate(path, int(path.stat().st_size * part))
    assert not is_intact_checkpoint(path)


def test_renamed_folder_takes_its_own_checkpoint_not_that_of_the_run_that_has_its_name_now(
    tmp_path,
):
    run, renamed = tmp_path / 'x', tmp_path / 'x_old'
    run.mkdir()
    save_checkpoints(run, 'epoch_1.pth', 'epoch_2.pth')
    (run / 'last_checkpoint').write_text(f'{run}/epoch_2.pth')
    run.rename(renamed)
    run.mkdir()
    save_checkpoints(run, 'epoch_1.pth', 'epoch_2.pth')
    assert find(renamed) == f'{renamed}/epoch_2.pth'


def test_pointer_to_another_run_alone_leads_nowhere(tmp_path):
    other, run = tmp_path / 'other', tmp_path / 'run'
    other.mkdir()
    run.mkdir()
    save_checkpoints(other, 'epoch_7.pth')
    (run / 'last_checkpoint').write_text(f'{other}/epoch_7.pth')
    with pytest.raises(CheckpointError, match=r"(?s)none to resume from.*run/epoch_7\.pth'"):
        find(run)


def test_checkpoint_with_nan_or_a_changed_bit_is_passed_over(tmp_path, caplog):
    save_checkpoints(tmp_path, 'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth')
    torch.save({'state_dict': {'weight': torch.tensor(float('nan'))}}, tmp_path / 'epoch_3.pth')
    damaged = bytearray((tmp_path / 'epoch_2.pth').read_bytes())
    damaged[damaged.index(torch.ones(99).numpy().tobytes())] ^= 1
    (tmp_path / 'epoch_2.pth').write_bytes(damaged)
    assert find(tmp_path) == f'{tmp_path}/epoch_1.pth'


def test_run_none_of_whose_checkpoints_can_be_used_is_not_begun_anew(tmp_path):
    save_checkpoints(tmp_path, 'epoch_1.pth', 'epoch_2.pth')
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        os.truncate(tmp_path / name, 100)
    with pytest.raises(CheckpointError) as stop:
        find(tmp_path)
    message = str(stop.value)
    assert f"'{tmp_path}' has checkpoints, but none to resume from" in message
    assert 'epoch_1.pth' in message and 'epoch_2.pth' in message and 'Remedy' in message


def test_checkpoints_under_other_names_than_the_configs_stop_it_too(tmp_path):
    save_checkpoints(tmp_path, 'epoch_1.pth')
    with pytest.raises(CheckpointError, match=r"epoch_1\.pth' is not named as .*iter_\{\}\.pth"):
        find(tmp_path, filename_tmpl='iter_{}.pth')


@pytest.mark.parametrize(
    ('settings', 'folder', 'name'),
    [
        ({}, 'run', 'epoch_3.pth'),
        ({'by_epoch': False}, 'run', 'iter_3.pth'),
        ({'filename_tmpl': 'step{}.pth'}, 'run', 'step3.pth'),
        ({'by_epoch': False, 'out_dir': 'OUT'}, 'out/run', 'iter_3.pth'),
    ],
)
@pytest.mark.parametrize('hook_type', ['ResumableCheckpointHook', 'CheckpointHook'])
def test_folder_and_names_of_the_hook_decide(hook_type, settings, folder, name, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    save_checkpoints(tmp_path / folder, name, name.replace('3', '4'))
    os.truncate(tmp_path / folder / name.replace('3', '4'), 50)
    if 'out_dir' in settings:
        settings = {**settings, 'out_dir': str(tmp_path / 'out')}
    found = find(tmp_path / 'run', hook_type, **settings)
    assert found == str(tmp_path / folder / name)
