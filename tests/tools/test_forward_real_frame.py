"""A released recipe takes a real nuScenes frame through its pipeline to boxes, at full size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from .tool_modules import load_tool

REPOSITORY = Path(__file__).resolve().parents[2]
FRAME_DIR = REPOSITORY.parent / 'shared' / 'real_frame'
RECIPE = 'configs/cmt/cmt_voxel0100_r50_800x320_8xb4-cyclic-20e_nus-3d.py'


def run_tool(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, 'tools/forward_real_frame.py', *arguments],
        cwd=REPOSITORY,
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY / 'projects')},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.end_to_end
@pytest.mark.skipif(
    not FRAME_DIR.is_dir(), reason=f'needs the real frame in {FRAME_DIR}, which is absent'
)
def test_released_recipe_gives_finite_boxes_for_the_real_frame(tmp_path):
    done = run_tool(RECIPE, '--json', str(tmp_path / 'report.json'))
    assert done.returncode == 0, done.stderr
    (report,) = json.loads((tmp_path / 'report.json').read_text())
    assert report['image_shape'] == [6, 3, 320, 800]
    assert 30_000 < report['num_points'] < 34_688  # those in range, of 34688 in the file
    assert 10_000 < report['num_voxels'] < 20_000
    assert report['num_boxes'] == report['num_finite_boxes'] == 300
    assert 0 < report['highest_score'] < 1
    parts = {'img_backbone', 'img_neck', 'pts_middle_encoder', 'pts_backbone', 'pts_bbox_head'}
    assert parts <= report['stages'].keys()
    assert all(seconds >= 0 for seconds in report['stages'].values())
    assert 0.5 < report['peak_memory_gib'] < 4
    assert 'peak memory' in done.stdout


def test_a_wrapped_part_of_the_data_is_read_as_the_frame(tmp_path):
    tool = load_tool('forward_real_frame')
    dataset = dict(type='NuScenesDataset', data_root='data/', indices=3, data_prefix=dict(pts='a'))
    loader = dict(dataset=dict(type='CBGSDataset', dataset=dataset))
    settings = tool.frame_dataset_config(Config(dict(test_dataloader=loader)), tmp_path / 'a.pkl')
    folder = str(tmp_path)
    assert settings == dict(
        type='NuScenesDataset',
        data_root='',
        ann_file=str(tmp_path / 'a.pkl'),
        data_prefix=dict(pts=folder, img=folder, sweeps=folder),
    )


def test_absent_frame_is_explained(tmp_path):
    done = run_tool('--frame-dir', str(tmp_path / 'nowhere'))
    assert done.returncode != 0
    assert 'nowhere does not exist' in done.stderr
    assert '--frame-dir' in done.stderr
    assert 'Traceback' not in done.stderr
