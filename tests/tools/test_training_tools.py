"""tools/train.py and tools/test.py: options, and how they stop at bad input."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
TINY = str(next((ROOT / 'configs' / 'cmt').glob('*tiny*.py')))
LIDAR = str(next((ROOT / 'configs' / 'cmt').glob('*lidar*.py')))
BAD_INPUT = 2


@pytest.fixture
def stopped(call_tool: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Runs a tool, in an empty folder, that is to stop at bad input; what it says then."""
    monkeypatch.chdir(tmp_path)

    def run(tool: str, *arguments: str) -> str:
        status, said = call_tool(tool, *arguments)
        assert status == BAD_INPUT
        return said

    return run


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict={'backbone.weight': torch.zeros(1)}), path)
    return str(path)


def test_training_without_data_names_the_folder_and_how_to_get_it(stopped):
    message = stopped('train', TINY, '--cfg-options', 'load_from=None')
    assert "the data folder 'data/synthetic' does not exist" in message
    assert 'python tools/create_synthetic_nuscenes.py --out data/synthetic' in message
    assert 'Traceback' not in message


def test_testing_without_data_names_the_folder(stopped, checkpoint):
    assert "the data folder 'data/synthetic' does not exist" in stopped('test', TINY, checkpoint)


def test_missing_config_is_named(stopped):
    assert "the config 'none.py' does not exist" in stopped('train', 'none.py')


def test_missing_starting_weights_are_named_with_the_way_to_do_without(stopped):
    message = stopped('train', TINY, '--cfg-options', 'load_from=ckpts/none.pth')
    assert "the checkpoint 'ckpts/none.pth' does not exist" in message
    assert '--cfg-options load_from=None' in message


def test_missing_checkpoint_to_resume_from_is_named(stopped):
    message = stopped('train', TINY, '--resume', 'work_dirs/none.pth')
    assert "the checkpoint 'work_dirs/none.pth' does not exist" in message


def test_missing_checkpoint_to_test_is_named(stopped):
    assert "the checkpoint 'none.pth' does not exist" in stopped('test', TINY, 'none.pth')


def test_a_modality_that_the_model_does_not_read_is_refused(stopped, checkpoint):
    message = stopped('test', LIDAR, checkpoint, '--modality', 'C')
    assert '--modality C: the model reads LiDAR, no cameras' in message
    assert 'remedy' in message


def test_test_time_augmentation_that_the_config_lacks_is_refused(stopped, checkpoint):
    message = stopped('test', TINY, checkpoint, '--tta')
    assert '--tta: the config has no tta_model and no tta_pipeline' in message


@pytest.mark.parametrize(
    ('tool', 'options'),
    [
        (
            'train',
            '--work-dir --amp --sync_bn --auto-scale-lr --resume --cfg-options --launcher '
            '--local_rank',
        ),
        (
            'test',
            '--work-dir --show --show-dir --score-thr --task --wait-time --cfg-options '
            '--launcher --tta --local_rank --modality',
        ),
    ],
)
def test_tools_have_the_options_of_mmdet3d(tool, options, call_tool):
    """Those of mmdet3d 1.4.0's tools of the same names, but for --ceph."""
    status, shown = call_tool(tool, '--help')
    assert status == 0
    assert [option for option in options.split() if option not in shown] == []


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_launch_scripts_say_how_they_are_called(script):
    done = subprocess.run(
        ['bash', f'tools/{script}', 'config.py'], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == BAD_INPUT
    assert 'usage: ' in done.stderr


def test_launch_script_passes_arguments_and_environment_to_torchrun(tmp_path):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    environment = dict(PYTHON=str(python), NNODES='2', NODE_RANK='1', PORT='1234')
    done = subprocess.run(
        ['bash', 'tools/dist_train.sh', 'config.py', '8', '--cfg-options', 'a=b c'],
        cwd=ROOT,
        env={**os.environ, **environment, 'MASTER_ADDR': '10.0.0.1'},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        '-m',
        'torch.distributed.run',
        '--nnodes=2',
        '--node_rank=1',
        '--master_addr=10.0.0.1',
        '--master_port=1234',
        '--nproc_per_node=8',
        'tools/train.py',
        'config.py',
        '--launcher',
        'pytorch',
        '--cfg-options',
        'a=b c',
    ]


LATE_RUNNER = """
import time
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.registry import RUNNERS


@RUNNERS.register_module()
class LateRunner:
    @classmethod
    def from_cfg(cls, cfg):
        return cls()

    def train(self):
        if get_rank() == 0:  # it alone writes the last checkpoint
            time.sleep(3)
            Path('epoch_1.pth').touch()
"""
SEES_THE_CHECKPOINT = """
import os, runpy, sys
from pathlib import Path

sys.argv[:1] = []
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
finally:
    found = Path('epoch_1.pth').is_file()
    Path(f'found_by_{os.environ["RANK"]}').write_text(str(found))
"""


def test_no_process_of_a_training_ends_before_the_last_checkpoint_is_written(tmp_path):
    """What comes next in each of them, the test of a study, begins with looking for it."""
    (tmp_path / 'late_runner.py').write_text(LATE_RUNNER)
    (tmp_path / 'main.py').write_text(SEES_THE_CHECKPOINT)
    (tmp_path / 'config.py').write_text(
        "custom_imports = dict(imports=['cmt_bias', 'late_runner'])\n"
        "runner_type = 'LateRunner'\n"
        "optim_wrapper = dict(type='OptimWrapper')\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT / 'projects')])
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', 'main.py']
    done = subprocess.run(
        [sys.executable, *launch, ROOT / 'tools/train.py', 'config.py', '--launcher', 'pytorch'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found = [(tmp_path / f'found_by_{rank}').read_text() for rank in range(2)]
    assert found == ['True', 'True'], found
