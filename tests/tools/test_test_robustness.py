"""``tools/test_robustness.py`` on the smallest data, with random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

ROOT = Path(__file__).parents[2]
BASE = next((ROOT / 'configs' / 'cmt').glob('cmt-tiny*.py'))
BIASED = next((ROOT / 'configs' / 'cmt_bias').glob('cmt-bias-fixed-tiny*.py'))
PREFIX = 'NuScenes metric/pred_instances_3d_NuScenes/'

# In one process of pytest-xdist, so that the fixtures are made once.
pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group('test_robustness')]


def recipe(base: Path, data_root: Path) -> str:
    return f"""
_base_ = '{base}'
data_root = '{data_root}/'
custom_imports = dict(imports=['cmt_bias'], allow_failed_imports=False)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
test_evaluator = val_evaluator
model = dict(pts_bbox_head=dict(num_query=40))
load_from = None
"""


@pytest.fixture(scope='module')
def models(tmp_path_factory, smallest_nuscenes) -> dict[str, tuple[Path, Path]]:
    """Config and checkpoint of a tiny CMT and of one with a bias, whose router is not zero."""
    folder = tmp_path_factory.mktemp('models')
    made = {}
    for name, base in (('base', BASE), ('biased', BIASED)):
        config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
        config.write_text(recipe(base, smallest_nuscenes))
        cfg = Config.fromfile(config)
        init_default_scope('mmdet3d')
        torch.manual_seed(1)
        model = MODELS.build(cfg.model)
        model.init_weights()
        for key, value in model.named_parameters():
            if 'weight_logits.weight' in key:
                torch.nn.init.normal_(value)
        torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
        made[name] = (config, checkpoint)
    return made


def run(tool: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, f'tools/{tool}.py', *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )


def arguments(models: dict, work_dir: Path) -> list[object]:
    config, checkpoint = models['base']
    biased = '{}:{}'.format(*models['biased'])
    return [
        config, checkpoint, biased, '--names', 'CMT', 'with bias',
        '--failures', 'lidar_drop', '--work-dir', work_dir,
    ]  # fmt: skip


@pytest.fixture(scope='module')
def tested(models, tmp_path_factory) -> Path:
    """Work folder of a finished robustness test."""
    work_dir = tmp_path_factory.mktemp('robustness')
    done = run('test_robustness', *arguments(models, work_dir))
    assert done.returncode == 0, done.stdout[-5000:]
    return work_dir


def test_the_clean_row_is_exactly_the_test_of_the_test_tool(models, tested, tmp_path):
    config, checkpoint = models['biased']
    done = run('test', config, checkpoint, '--work-dir', tmp_path)
    assert done.returncode == 0, done.stdout[-5000:]
    (path,) = (path for path in tmp_path.glob('*/*.json') if path.parent.name == path.stem)
    expected = json.loads(path.read_text())
    cell = json.loads((tested / 'cells' / 'with_bias' / 'clean.json').read_text())
    for key, value in cell['metrics'].items():
        assert value == expected[key] or value != value, key
    assert cell['nds'] == expected[f'{PREFIX}NDS']
    assert cell['num_changed'] == 0


def test_report_and_router_weights_are_written(tested):
    table = pd.read_csv(tested / 'robustness.csv')
    assert table['model'].tolist() == ['CMT', 'CMT', 'with bias', 'with bias']
    assert table['failure'].tolist() == ['clean', 'lidar_drop'] * 2
    assert (table['status'] == 'done').all()
    assert (table['samples'] == 3).all()
    assert table['changed'].dropna().tolist() == [1, 1]
    weights = table['lidar_weight']
    assert weights[:2].isna().all()
    assert weights[2] != weights[3]
    assert weights[2:].abs().max() <= 1
    report = (tested / 'robustness.md').read_text()
    assert '### with bias' in report
    assert '### CMT' not in report
    assert (tested / 'robustness.png').is_file()


def test_what_is_finished_is_kept_and_what_is_not_is_made(models, tested):
    kept = tested / 'cells' / 'CMT' / 'clean.json'
    lost = tested / 'cells' / 'with_bias' / 'lidar_drop.json'
    before, stamp = json.loads(lost.read_text()), kept.stat().st_mtime_ns
    lost.unlink()
    done = run('test_robustness', *arguments(models, tested))
    assert done.returncode == 0, done.stdout[-5000:]
    assert '3 tests were finished earlier, 1 are to be made' in done.stdout
    assert repr(json.loads(lost.read_text())) == repr(before)
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        (['--failures', 'lidar_flood'], 'lidar_drop'),
        (['--names', 'a', 'b'], '--names'),
    ],
)
def test_arguments_that_cannot_be_meant_are_explained(extra, message, models):
    config, checkpoint = models['base']
    done = run('test_robustness', config, checkpoint, *extra)
    assert done.returncode == 2
    assert 'remedy' in done.stdout
    assert message in done.stdout


def test_a_missing_checkpoint_and_one_of_another_model_are_explained(models, tmp_path):
    config, _ = models['base']
    done = run('test_robustness', config, tmp_path / 'none.pth', '--work-dir', tmp_path)
    assert done.returncode == 2
    assert 'does not exist' in done.stdout
