"""The command line tools on the smallest synthetic data: train, be killed, resume, test."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..tools.tiny_models import run_tool

ROOT = Path(__file__).parents[2]
TINY = next((ROOT / 'configs' / 'cmt').glob('*tiny*.py'))
MAX_EPOCHS = 4
ITERATIONS = 3  # the training split has three samples
METRIC = 'NuScenes metric/pred_instances_3d_NuScenes/'

pytestmark = pytest.mark.end_to_end


def recipe(data_root: Path) -> str:
    """The tiny recipe on other data: fewer queries, no workers, every iteration logged."""
    loading = 'num_workers=0, persistent_workers=False'
    return f"""
_base_ = '{TINY}'
data_root = '{data_root}/'
custom_imports = dict(imports=['cmt_bias'], allow_failed_imports=False)
train_dataloader = dict(batch_size=1, {loading}, dataset=dict(data_root=data_root))
val_dataloader = dict({loading}, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
test_evaluator = val_evaluator
model = dict(pts_bbox_head=dict(num_query=40))
train_cfg = dict(max_epochs={MAX_EPOCHS}, val_interval=100)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
log_processor = dict(window_size=1)
randomness = dict(seed=7)
load_from = None
"""


def command(tool: str, *arguments: object) -> list[str]:
    return [sys.executable, f'tools/{tool}.py', *map(str, arguments)]


def run(tool: str, *arguments: object) -> str:
    """Output of a tool that must succeed."""
    done = run_tool(tool, *arguments)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def losses(work_dir: Path) -> dict[int, float]:
    """Loss of each iteration; where a run went over it twice, of the later time."""
    found = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if 'loss' in row:
                found[row['step']] = row['loss']
    return found


@dataclass(frozen=True)
class KilledRun:
    """A training that was killed in the middle of an epoch, and resumed."""

    work_dir: Path
    log_of_resume: str
    checkpoints_at_kill: frozenset[str]


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory, smallest_nuscenes: Path) -> Path:
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(recipe(smallest_nuscenes))
    return path


@pytest.fixture(scope='module')
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Work folder and output of a whole training."""
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    return work_dir, run('train', config, '--work-dir', work_dir)


@pytest.fixture(scope='module')
def killed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    work_dir = tmp_path_factory.mktemp('killed')
    process = subprocess.Popen(
        command('train', config, '--work-dir', work_dir),
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    # After the first checkpoint and the first iteration that follows it.
    while ITERATIONS + 1 not in losses(work_dir):
        assert process.poll() is None, 'the training ended before it could be killed'
        assert time.monotonic() < deadline, 'no checkpoint in ten minutes'
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoints = frozenset(path.name for path in work_dir.glob('*.pth'))
    log = run('train', config, '--work-dir', work_dir, '--resume')
    return KilledRun(work_dir, log, checkpoints)


def test_killed_training_resumes_and_ends_as_the_uninterrupted_one(uninterrupted, killed):
    assert 'epoch_1.pth' in killed.checkpoints_at_kill
    assert f'epoch_{MAX_EPOCHS}.pth' not in killed.checkpoints_at_kill
    assert 'resumed epoch' in killed.log_of_resume

    expected = losses(uninterrupted[0])
    assert sorted(expected) == list(range(1, MAX_EPOCHS * ITERATIONS + 1))
    assert all(math.isfinite(loss) for loss in expected.values())
    assert len(set(expected.values())) == len(expected)
    assert losses(killed.work_dir) == expected


def test_training_states_at_its_start_what_will_be_trained(uninterrupted):
    log = uninterrupted[1]
    assert f'effective batch 1 = 1 processes x batch 1 x 1 accumulated steps; {ITERATIONS}' in log
    assert 'learning rate of the parameter groups' in log
    assert 'lr_mult does not hold' not in log


def metrics(work_dir: Path) -> dict[str, float]:
    """The metric dict that a test has written."""
    (path,) = (path for path in work_dir.glob('*/*.json') if path.parent.name == path.stem)
    return json.loads(path.read_text())


def detections(prefix: Path) -> dict[str, list[dict]]:
    path = prefix / 'pred_instances_3d' / 'results_nusc.json'
    return json.loads(path.read_text())['results']


def test_all_sensors_and_one_alone_are_scored_by_the_official_metric(config, killed, tmp_path):
    checkpoint = killed.work_dir / f'epoch_{MAX_EPOCHS}.pth'
    results = {}
    for modality in ('LC', 'C'):
        folder = tmp_path / modality
        output = run(
            'test', config, checkpoint, '--work-dir', folder, '--modality', modality,
            '--show-dir', folder / 'pictures', '--cfg-options',
            f'test_evaluator.jsonfile_prefix={folder / "results"}',
        )  # fmt: skip
        scores = metrics(folder)
        nds, mean_ap = scores[f'{METRIC}NDS'], scores[f'{METRIC}mAP']
        assert 0 <= mean_ap <= 1
        assert 0 <= nds <= 1
        assert f'mAP {mean_ap:.4f}   NDS {nds:.4f}' in output
        assert f'sensors {modality}' in output
        assert len(list((folder / 'pictures').glob('*.png'))) == 3
        results[modality] = detections(folder / 'results')

    assert results['LC'].keys() == results['C'].keys()
    assert all(results['LC'][token] != results['C'][token] for token in results['LC'])


def test_a_checkpoint_of_another_model_is_refused_with_the_keys_that_differ(config, killed):
    checkpoint = killed.work_dir / f'epoch_{MAX_EPOCHS}.pth'
    lidar_only = next((ROOT / 'configs' / 'cmt').glob('*lidar*.py'))
    done = subprocess.run(
        command('doctor', lidar_only, checkpoint),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1
    assert 'pts_voxel_encoder' in done.stdout
    assert 'unknown to the model' in done.stdout
