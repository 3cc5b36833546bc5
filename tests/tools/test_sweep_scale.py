"""``tools/sweep_scale.py`` on the smallest data, with random weights."""

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

from cmt_bias.study.test_metrics import read_test_metrics

ROOT = Path(__file__).parents[2]
BASE = next((ROOT / 'configs' / 'cmt').glob('cmt-tiny*.py'))
BIASED = next((ROOT / 'configs' / 'cmt_bias').glob('cmt-bias-fixed-tiny*.py'))
PREFIX = 'NuScenes metric/pred_instances_3d_NuScenes/'
MODALITY_SCALES = """
model['pts_bbox_head'].update(
    attention_bias_config=dict(scale_granularity='modality', max_scale=5.0))
"""

# In one process of pytest-xdist, so that the fixtures are made once.
pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group('sweep_scale')]


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
model = dict(pts_bbox_head=dict(num_query=100))
load_from = None
"""


@pytest.fixture(scope='module')
def models(tmp_path_factory, smallest_nuscenes) -> dict[str, tuple[Path, Path]]:
    """Config and checkpoint of a tiny CMT and of one with two scales and a router."""
    folder = tmp_path_factory.mktemp('models')
    made = {}
    for name, base, more in (('base', BASE, ''), ('biased', BIASED, MODALITY_SCALES)):
        config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
        config.write_text(recipe(base, smallest_nuscenes) + more)
        cfg = Config.fromfile(config)
        init_default_scope('mmdet3d')
        torch.manual_seed(1)
        model = MODELS.build(cfg.model)
        model.init_weights()
        state = model.state_dict()
        for key in state:
            if 'weight_logits.weight' in key:
                torch.nn.init.normal_(state[key])
            if key.endswith('bias_scale'):
                state[key].copy_(torch.tensor([1.5, 4.25]))
        torch.save(dict(state_dict=state, meta={}), checkpoint)
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
        timeout=600,
    )


@pytest.fixture(scope='module')
def swept(models, tmp_path_factory) -> Path:
    """Work folder of a finished sweep."""
    work_dir = tmp_path_factory.mktemp('sweep')
    done = run('sweep_scale', *models['biased'], '--values', 6, 0, '--work-dir', work_dir)
    assert done.returncode == 0, done.stdout[-5000:]
    return work_dir


def test_the_learned_row_is_exactly_the_test_of_the_test_tool(models, swept, tmp_path):
    done = run('test', *models['biased'], '--work-dir', tmp_path)
    assert done.returncode == 0, done.stdout[-5000:]
    expected, actual = read_test_metrics(tmp_path), read_test_metrics(swept)
    timings = {'data_time', 'time'}
    assert actual.keys() == expected.keys() >= {f'{PREFIX}NDS', f'{PREFIX}mAP'}
    for key in actual.keys() - timings:
        assert actual[key] == expected[key] or actual[key] != actual[key], key
    table = pd.read_csv(swept / 'sweep_scale.csv', float_precision='round_trip')
    learned = table[(table['point'] == 'learned') & (table['part'] == 'whole')].iloc[0]
    for name in ('NDS', 'mAP'):
        assert learned[name] == expected[PREFIX + name]


def test_table_holds_each_scale_and_condition_once(swept):
    table = pd.read_csv(swept / 'sweep_scale.csv')
    assert table['part'].tolist() == ['whole', 'day'] * 3
    assert (table['frames'] == 3).all()
    assert table['scale'].dropna().tolist() == [0, 0, 6, 6]
    assert (table['point'] == ['override'] * 4 + ['learned'] * 2).all()
    report = (swept / 'sweep_scale.md').read_text()
    assert '1.500' in report
    assert '4.250' in report
    assert (swept / 'sweep_scale.png').is_file()


@pytest.mark.parametrize(
    ('config', 'checkpoint', 'extra', 'messages'),
    [
        ('biased', 'biased', ['--values', '1', 'nan', '-2'], ['--values: nan, -2', 'from 0']),
        ('biased', 'base', [], ['lacks parts', 'bias_scale']),
    ],
)
def test_what_cannot_be_swept_is_explained(config, checkpoint, extra, messages, models, tmp_path):
    files = models[config][0], models[checkpoint][1]
    done = run('sweep_scale', *files, '--work-dir', tmp_path, *extra)
    assert done.returncode == 2, done.stdout[-3000:]
    for message in [*messages, 'remedy']:
        assert message in done.stdout
