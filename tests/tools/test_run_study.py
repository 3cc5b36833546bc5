"""tools/run_study.py killed with SIGKILL: real trainings and tests on the smallest data."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cmt_bias.study.run_lock import FolderLock
from cmt_bias.study.run_results import RunReader
from cmt_bias.study.run_state import DETECTIONS, read_state
from cmt_bias.study.training_curves import read_losses, read_scales

ROOT = Path(__file__).parents[2]
FINETUNE = next((ROOT / 'configs' / 'cmt_bias').glob('cmt-bias-finetune-tiny*.py'))
CMT = next((ROOT / 'configs' / 'cmt').glob('cmt-tiny*.py'))
STUDY = ROOT / 'configs' / 'studies' / 'learnable_scale.py'
MAX_EPOCHS = 6  # of one iteration each
VARIANT = 'learned_1.5'

# In one process of pytest-xdist, so that the runs of the fixtures are made once.
pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group('end_to_end')]


def base_config(data_root: Path) -> str:
    """The fine-tuning preset on other data, with fewer queries."""
    loading = 'num_workers=0, persistent_workers=False'
    return f"""
_base_ = '{FINETUNE}'
data_root = '{data_root}/'
train_dataloader = dict(batch_size=3, {loading}, dataset=dict(data_root=data_root))
val_dataloader = dict({loading}, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
test_evaluator = val_evaluator
model = dict(pts_bbox_head=dict(num_query=40))
train_cfg = dict(max_epochs={MAX_EPOCHS}, val_interval=100)
"""


def small_study(config: Path, checkpoint: Path) -> str:
    """One variant of the shipped study, every iteration logged."""
    return f"""
_base_ = '{STUDY}'
base_config = '{config}'
load_from = '{checkpoint}'
overrides = {{
    'custom_hooks.BiasScaleHook.interval': 1,
    'default_hooks.logger.interval': 1,
    'log_processor.window_size': 1,
}}
seeds = [3]
variants = [variant for variant in _base_.variants if variant['name'] == '{VARIANT}']
reference = '{VARIANT}'
"""


def command(study: Path, work_dir: Path) -> list[str]:
    return [sys.executable, 'tools/run_study.py', str(study), '--work-dir', str(work_dir)]


def run(study: Path, work_dir: Path) -> str:
    """Output of a study that must succeed."""
    done = subprocess.run(
        command(study, work_dir), cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope='module')
def study(tmp_path_factory: pytest.TempPathFactory, smallest_nuscenes: Path) -> Path:
    folder = tmp_path_factory.mktemp('study')
    config, checkpoint = folder / 'tiny.py', folder / 'start.pth'
    config.write_text(base_config(smallest_nuscenes))
    init_default_scope('mmdet3d')
    settings = Config.fromfile(CMT).model
    settings.pts_bbox_head.num_query = 40
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(settings).state_dict()), checkpoint)
    path = folder / 'small_study.py'
    path.write_text(small_study(config, checkpoint))
    return path


@pytest.fixture(scope='module')
def uninterrupted(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the run of a study that nothing has cut off."""
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    run(study, work_dir)
    return work_dir / VARIANT / 'seed_3'


def wait_for_checkpoint(folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600
    while not list(folder.glob('train/epoch_*.pth')):
        assert process.poll() is None, 'the study ended before it could be killed'
        assert time.monotonic() < deadline, 'no checkpoint in ten minutes'
        time.sleep(0.01)


def metrics(folder: Path) -> dict[str, float]:
    """Metrics of a run's test, without the times that it also states."""
    return {k: v for k, v in read_state(folder).metrics.items() if '_NuScenes/' in k}


def detections(folder: Path) -> dict[str, list[dict]]:
    return json.loads((folder / DETECTIONS).read_text())['results']


def test_killed_study_started_again_ends_as_the_uninterrupted_one(study, uninterrupted, tmp_path):
    folder = tmp_path / VARIANT / 'seed_3'
    with (tmp_path / 'killed.log').open('wb') as log:
        process = subprocess.Popen(command(study, tmp_path), cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_for_checkpoint(folder, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    # Nobody holds the run's lock any more: the training has ended with its runner.
    lock = FolderLock(folder / 'run.lock')
    assert lock.acquire(wait_seconds=60)
    lock.release()
    assert not (folder / 'train' / f'epoch_{MAX_EPOCHS}.pth').exists()

    output = run(study, tmp_path)
    assert '1 of 1 runs done' in output
    assert 'resumed epoch' in (folder / 'training.log').read_text()
    assert len(read_losses(folder / 'train')) == MAX_EPOCHS
    assert read_losses(folder / 'train').equals(read_losses(uninterrupted / 'train'))
    assert read_scales(folder / 'train').equals(read_scales(uninterrupted / 'train'))
    assert metrics(folder) == pytest.approx(metrics(uninterrupted), rel=0, abs=0, nan_ok=True)
    assert detections(folder) == detections(uninterrupted)

    made = (folder / DETECTIONS).stat().st_mtime_ns
    assert '1 runs were finished before and kept' in run(study, tmp_path)
    assert (folder / DETECTIONS).stat().st_mtime_ns == made


def test_whole_has_exactly_the_metrics_of_the_test_tool(uninterrupted):
    results = RunReader(use_cache=False).read(uninterrupted, VARIANT, 3)
    assert results.problems == []
    whole, tested = results.subsets[0], results.state.metrics
    prefix = 'NuScenes metric/pred_instances_3d_NuScenes/'
    for name in ('mAP', 'NDS'):
        assert whole.metrics[name] == tested[prefix + name]
    for name in ('mATE', 'mASE', 'mAOE', 'mAVE', 'mAAE'):
        assert float(f'{whole.metrics[name]:.4f}') == tested[prefix + name]
    assert RunReader().read(uninterrupted, VARIANT, 3).subsets == results.subsets  # now kept
