"""``tools/visualize_bias.py`` on the smallest data, with random weights."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import mmcv
import pandas as pd
import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.fileio import load

from cmt_bias.engine.preflight import ProblemsFound

ROOT = Path(__file__).parents[2]
BASE = next((ROOT / 'configs' / 'cmt').glob('cmt-tiny*.py'))
BIASED = next((ROOT / 'configs' / 'cmt_bias').glob('cmt-bias-layer-tiny*.py'))

# In one process of pytest-xdist, so that the models are made once.
pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group('visualize_bias')]


@pytest.fixture(scope='module')
def models(tmp_path_factory, smallest_nuscenes) -> dict[str, tuple[Path, Path]]:
    """Config and checkpoint of a tiny CMT and of one with a bias, whose router is not zero."""
    folder = tmp_path_factory.mktemp('models')
    made = {}
    for name, base in (('base', BASE), ('biased', BIASED)):
        config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
        config.write_text(
            f"_base_ = '{base}'\n"
            f"data_root = '{smallest_nuscenes}/'\n"
            "custom_imports = dict(imports=['cmt_bias'], allow_failed_imports=False)\n"
            'test_dataloader = dict(dataset=dict(data_root=data_root))\n'
            'test_evaluator = dict(\n'
            "    data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')\n"
            'model = dict(pts_bbox_head=dict(num_query=40))\n'
            'load_from = None\n'
        )
        torch.manual_seed(1)
        model = MODELS.build(Config.fromfile(config).model)
        model.init_weights()
        for key, value in model.named_parameters():
            if 'weight_logits.weight' in key:
                torch.nn.init.normal_(value)
        torch.save(dict(state_dict=model.state_dict(), meta={}), checkpoint)
        made[name] = (config, checkpoint)
    return made


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, 'tools/visualize_bias.py', *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT / 'projects'), 'OMP_NUM_THREADS': '1'},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def test_pictures_and_shares_of_the_asked_samples_are_written(models, smallest_nuscenes, tmp_path):
    token = load(smallest_nuscenes / 'nuscenes_infos_val.pkl')['data_list'][2]['token']
    done = run(
        *models['biased'], '--samples', 0, token, '--score-thr', 0, '--layer', 0,
        '--modality', 'L', '--out-dir', tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    assert f'2 pictures and attention_mass.csv in {tmp_path}' in done.stdout
    names = ['attention_mass.csv', 'test_00000_layer0.png', 'test_00002_layer0.png']
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names[1:]:
        height, width = mmcv.imread(tmp_path / name).shape[:2]
        assert 1700 <= width <= 2000
        assert 1200 <= height <= 1800
    table = pd.read_csv(tmp_path / 'attention_mass.csv')
    assert table['sample'].tolist() == [0] * 4 + [2] * 4
    assert table['token'].tolist()[4:] == [token] * 4
    assert table['layer'].tolist() == [0, 0, 1, 1] * 2
    assert (table['queries'] == 12).all()
    assert (table['lidar'] + table['camera']).tolist() == pytest.approx([1.0] * 8)
    without, with_bias = (table[table['bias'] == kind]['windows'] for kind in ('without', 'with'))
    assert (without.to_numpy() != with_bias.to_numpy()).all()


@pytest.fixture
def problems_of(monkeypatch):
    """Runs the tool in this process, and returns what it says of its input."""
    spec = importlib.util.spec_from_file_location(
        'visualize_bias', ROOT / 'tools/visualize_bias.py'
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, 'argv', ['visualize_bias.py', *map(str, arguments)])
        with pytest.raises(ProblemsFound) as found:
            tool.main()
        return str(found.value)

    return call


@pytest.mark.parametrize(
    ('extra', 'cause', 'remedy'),
    [
        (['--samples', '0', 'nosuchtoken'], '--samples nosuchtoken', '0 to 2'),
        (['--layer', '2'], '--layer 2', '0 to 1'),
        (['--count', '0'], '--count 0', 'above 0'),
    ],
)
def test_what_does_not_exist_is_named(problems_of, models, tmp_path, extra, cause, remedy):
    message = problems_of(*models['biased'], *extra, '--out-dir', tmp_path)
    assert cause in message
    assert remedy in message


def test_a_missing_checkpoint_is_named(problems_of, models, tmp_path):
    message = problems_of(models['biased'][0], tmp_path / 'none.pth')
    assert 'none.pth' in message
    assert 'does not exist' in message


def test_a_model_without_bias_is_explained(models, tmp_path):
    done = run(*models['base'], '--out-dir', tmp_path)
    assert done.returncode == 2
    assert 'no attention bias' in done.stdout
    assert 'AttentionBiasCmtHead' in done.stdout
    assert 'Traceback' not in done.stdout
