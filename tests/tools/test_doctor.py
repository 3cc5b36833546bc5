"""tools/doctor.py as a program: here, where packages are missing, and where one is broken."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mmcv
import pytest
import torch

from cmt_bias.problem import Problem
from cmt_bias.runs.config_check import check_config

ROOT = Path(__file__).parents[2]
TINY = next((ROOT / 'configs' / 'cmt').glob('*tiny*.py'))


def doctor(*arguments: str, python_options: tuple[str, ...] = (), python_path: str = '') -> tuple:
    """Exit status and output of the tool."""
    path = os.pathsep.join(filter(None, [python_path, str(ROOT / 'projects')]))
    done = subprocess.run(
        [sys.executable, *python_options, 'tools/doctor.py', *arguments],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert 'Traceback' not in done.stderr
    return done.returncode, done.stdout


def test_nothing_is_to_be_mended_here():
    status, output = doctor()
    assert status == 0, output
    assert re.search(r'ok +mmcv operators +compiled, voxelization runs on CPU', output)
    assert re.search(r'ok +spconv +spconv\S* [\d.]+, forward runs on', output)
    assert output.endswith('Nothing to be mended.\n')


def test_runs_with_no_package_installed_at_all():
    status, output = doctor(python_options=('-S',))  # without site-packages
    assert status == 1
    for name in ('torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmdet3d'):
        assert re.search(rf'ERROR +{name} +not installed\n +remedy: ', output), output
    assert 'make setup' in output


def test_mmcv_without_compiled_operators_is_told_from_a_whole_one(tmp_path):
    """The trap of build isolation: mmcv imports, but has nothing compiled in it."""
    ignored = shutil.ignore_patterns('_ext*', 'csrc', '__pycache__', '*.cu', '*.cpp')
    shutil.copytree(Path(mmcv.__file__).parent, tmp_path / 'mmcv', ignore=ignored)

    status, output = doctor(python_path=str(tmp_path))

    assert status == 1
    output = ' '.join(output.split())
    assert re.search(
        r"ERROR mmcv operators ModuleNotFoundError: No module named .{0,9}'mmcv._ext'", output
    )
    assert 'MMCV_WITH_OPS=1' in output
    assert 'ok mmcv 2.1.0' in output


def errors_of(*arguments, **settings) -> dict[str, tuple[str, str]]:
    """Errors and their remedies, by subject."""
    answers = check_config(*arguments, **settings)
    return {
        subject: (answer.what, answer.remedy)
        for subject, answer in answers
        if not isinstance(answer, str) and answer.severity == 'error'
    }


def test_missing_data_are_named_for_each_split(tmp_path):
    overrides = [
        f'{split}_dataloader.dataset.data_root={tmp_path}/none/'
        for split in ('train', 'val', 'test')
    ]
    errors = errors_of(str(TINY), overrides=[*overrides, 'load_from=None'])
    assert set(errors) == {'train data', 'val data', 'test data'}
    for finding, remedy in errors.values():
        assert f"'{tmp_path}/none' does not exist" in finding
        assert 'create_synthetic_nuscenes.py' in remedy


def test_every_bad_file_is_listed_when_all_are_read(tmp_path, smallest_nuscenes):
    shutil.copytree(smallest_nuscenes, tmp_path / 'nuscenes')
    cloud = min((tmp_path / 'nuscenes/samples/LIDAR_TOP').iterdir())
    cloud.write_bytes(cloud.read_bytes()[:-7])
    image = max((tmp_path / 'nuscenes/samples/CAM_BACK').iterdir())
    image.write_bytes(b'')
    root = f'{tmp_path}/nuscenes/'
    overrides = [
        f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')
    ]
    for split in ('val', 'test'):
        overrides.append(f'{split}_evaluator.data_root={root}')
        overrides.append(f'{split}_evaluator.ann_file={root}nuscenes_infos_val.pkl')
    overrides.append('load_from=None')
    assert errors_of(str(TINY), overrides=overrides) == {}
    answers = check_config(str(TINY), overrides=overrides, depth='all')
    found = {answer.what.split("'")[1] for _, answer in answers if not isinstance(answer, str)}
    assert found == {str(cloud), str(image)}


def test_data_that_were_not_looked_at_are_not_called_ok(tmp_path):
    path = tmp_path / 'of_the_user.py'
    path.write_text(
        f'_base_ = {str(TINY)!r}\n'
        "dataset = dict(_delete_=True, type='OfTheUser', data_root='/')\n"
        'val_dataloader = dict(dataset=dataset)\n'
    )
    (answer,) = [answer for subject, answer in check_config(str(path)) if subject == 'val data']
    assert isinstance(answer, Problem)
    assert answer.severity == 'note' and 'was not looked at' in answer.what


def test_checkpoint_of_another_model_is_told_by_submodule(tmp_path):
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict={'backbone.conv.weight': torch.zeros(3)}), path)
    finding, remedy = errors_of(str(TINY), checkpoint=str(path))['checkpoint']
    assert 'belongs to another model than this config builds (0 keys match)' in finding
    assert 'backbone:\n  1 unknown to the model: backbone.conv.weight' in finding
    assert 'missing in the checkpoint: img_backbone.' in finding
    assert 'config that the checkpoint was trained with' in remedy


def test_missing_checkpoint_and_config_are_named(tmp_path):
    errors = errors_of(str(TINY), checkpoint=str(tmp_path / 'none.pth'))
    assert f"'{tmp_path / 'none.pth'}' does not exist" in errors['checkpoint'][0]
    assert 'does not exist' in errors_of(str(tmp_path / 'none.py'))['config'][0]


def test_a_config_with_a_key_the_model_does_not_know_names_it(tmp_path):
    errors = errors_of(str(TINY), overrides=['model.pts_bbox_head.num_querry=10'])
    assert 'num_querry' in errors['model'][0]


def test_the_stock_loader_of_sweeps_is_a_warning_with_the_one_to_take(tmp_path):
    path = tmp_path / 'stock.py'
    path.write_text(
        f'_base_ = {str(TINY)!r}\n'
        "val_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadPointsFromMultiSweeps')]))\n"
    )
    problems = [problem for _, problem in check_config(str(path)) if isinstance(problem, Problem)]
    (problem,) = [problem for problem in problems if problem.severity == 'warning']
    assert 'LoadAlignedSweeps' in problem.remedy


@pytest.mark.parametrize('text', ['raise RuntimeError("broken on purpose")', 'model = dict('])
def test_a_config_that_does_not_load_is_an_error(tmp_path, text):
    path = tmp_path / 'broken.py'
    path.write_text(text)
    assert set(errors_of(str(path))) == {'config'}


@pytest.mark.parametrize('text', ['model', 'model.pts_bbox_head.num_query=[1,(2]'])
def test_an_option_that_cannot_be_read_is_an_error_of_the_config(text):
    errors = errors_of(str(TINY), overrides=[text])
    assert set(errors) == {'config'}
    assert '--cfg-options' in errors['config'][1]
