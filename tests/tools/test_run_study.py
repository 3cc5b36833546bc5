"""tools/run_study.py killed with SIGKILL: real trainings and tests on the smallest data."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cmt_bias.file_lock import FileLock
from cmt_bias.study.study_results import collect_results
from cmt_bias.study.study_run import DETECTIONS, read_state
from cmt_bias.study.training_curves import read_losses, read_scales

from .tool_modules import load_tool

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / 'configs' / 'studies' / 'learnable_scale'
CMT = next((ROOT / 'configs' / 'cmt').glob('cmt-tiny*.py'))
MAX_EPOCHS = 6  # of one iteration each
VARIANT = 'learned_from_low'
STUDY = f"""
title = 'A small study'
variants = dict({VARIANT}='one variant of the shipped study')
seeds = [3]
"""

pytestmark = pytest.mark.end_to_end


def variant_text(data_root: Path, checkpoint: Path) -> str:
    """The shipped variant on other data, with fewer queries, every iteration logged."""
    return f"""
_base_ = '{SHIPPED / VARIANT}.py'
data_root = '{data_root}/'
train_dataloader = dict(batch_size=3, dataset=dict(data_root=data_root, indices=None))
test_dataloader = dict(dataset=dict(data_root=data_root))
test_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
model = dict(pts_bbox_head=dict(num_query=40))
train_cfg = dict(max_epochs={MAX_EPOCHS})
custom_hooks = [*_base_.custom_hooks[:-1], dict(type='BiasScaleHook', interval=1)]
default_hooks = dict(logger=dict(interval=1))
log_processor = dict(window_size=1)
load_from = '{checkpoint}'
"""


def command(study: Path, work_dir: Path) -> list[str]:
    return [sys.executable, 'tools/run_study.py', str(study), '--work-dir', str(work_dir)]


def run(study: Path, work_dir: Path) -> str:
    """Output of a study that must succeed; its jobs are in this process, their tools are not."""
    tool = load_tool('run_study')
    arguments = [*command(study, work_dir)[1:], '--cluster', 'debug']
    with (
        patch.object(sys, 'argv', arguments),
        patch.object(signal, 'signal'),
        redirect_stdout(StringIO()) as output,
        pytest.raises(SystemExit) as stop,
    ):
        tool.main()
    assert stop.value.code == 0, output.getvalue()[-5000:]
    return output.getvalue()


@pytest.fixture(scope='module')
def study(tmp_path_factory: pytest.TempPathFactory, smallest_nuscenes: Path) -> Path:
    folder = tmp_path_factory.mktemp('study')
    checkpoint = folder / 'start.pth'
    (folder / f'{VARIANT}.py').write_text(variant_text(smallest_nuscenes, checkpoint))
    init_default_scope('mmdet3d')
    settings = Config.fromfile(CMT).model
    settings.pts_bbox_head.num_query = 40
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(settings).state_dict()), checkpoint)
    (folder / 'study.py').write_text(STUDY)
    (folder / 'with_failures.py').write_text(f"{STUDY}failures = ['camera_drop_1']\n")
    return folder / 'study.py'


@pytest.fixture(scope='module')
def uninterrupted(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the run of a study that nothing has cut off."""
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    run(study.with_name('with_failures.py'), work_dir)
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
    lock = FileLock(folder / 'run.lock', with_children=True)
    assert lock.acquire(wait_seconds=60)
    lock.release()
    assert not (folder / 'train' / f'epoch_{MAX_EPOCHS}.pth').exists()

    output = run(study, tmp_path)
    assert '1 of 1 runs done' in output
    assert 'resumed epoch' in (folder / 'train.log').read_text()
    assert len(read_losses(folder / 'train')) == MAX_EPOCHS
    assert read_losses(folder / 'train').equals(read_losses(uninterrupted / 'train'))
    assert read_scales(folder / 'train').equals(read_scales(uninterrupted / 'train'))
    assert metrics(folder) == pytest.approx(metrics(uninterrupted), rel=0, abs=0, nan_ok=True)
    assert detections(folder) == detections(uninterrupted)

    made = (folder / DETECTIONS).stat().st_mtime_ns
    assert '1 runs were finished before and kept' in run(study, tmp_path)
    assert (folder / DETECTIONS).stat().st_mtime_ns == made


def test_results_have_exactly_the_metrics_of_the_test_tool(uninterrupted):
    results = collect_results(uninterrupted.parents[1])
    assert results.missing == []
    values = results.values.loc[VARIANT, 3]
    tested = read_state(uninterrupted).metrics
    prefix = 'NuScenes metric/pred_instances_3d_NuScenes/'
    for name in ('mAP', 'NDS'):
        assert values.loc['whole', name] == tested[prefix + name]
    for name in ('mATE', 'mASE', 'mAOE', 'mAVE', 'mAAE'):
        assert float(f'{values.loc["whole", name]:.4f}') == tested[prefix + name]
    assert {'failures', 'clean', 'failure: camera_drop_1'} <= set(values['mAP'].dropna().index)
