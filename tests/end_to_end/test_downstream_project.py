"""A project in another folder that has the package installed, and no checkout of it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRESET = next((ROOT / 'configs' / 'cmt_bias').glob('cmt-bias-learnable-tiny_*.py')).name

pytestmark = pytest.mark.end_to_end

WEIGHT_GENERATOR = '''
"""Trust the cameras where one of them sees the query."""

import torch
from cmt_bias.bias import WeightGenerator
from mmdet3d.registry import MODELS


@MODELS.register_module()
class VisibilityWeightGenerator(WeightGenerator):
    def __init__(self, embed_dims, gain=1.0):
        super().__init__()
        self.linear = torch.nn.Linear(embed_dims, 1)
        self.gain = gain

    def forward(self, query_pos, memory, memory_pos, windows, img_metas):
        seen = (windows.cells[:, :, 1:, 0] >= 0).any(-1).float()  # by any camera
        trust = (self.gain * self.linear(query_pos).squeeze(-1)).tanh()
        return trust, trust * seen
'''

CONFIG = """
_base_ = __import__('cmt_bias').config_path('cmt_bias/{preset}')

custom_imports = dict(imports=['cmt_bias', 'my_project'], allow_failed_imports=False)
model = dict(
    pts_bbox_head=dict(
        num_query=40,
        weight_generator=dict(_delete_=True, type='VisibilityWeightGenerator', gain=0.5),
        attention_bias_config=dict(bias_scale=1.5),
    )
)
data_root = '{data_root}/'
loading = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=1, dataset=dict(data_root=data_root), **loading)
val_dataloader = dict(dataset=dict(data_root=data_root), **loading)
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2, val_interval=10)
load_from = None
custom_hooks = [
    dict(type='BiasScaleHook', interval=1),
    dict(type='BiasScaleRangeHook', schedule=[(0, (1.0, 2.5)), (1, (0.5, 4.0))]),
]
"""

ENTRY_POINT = """
import json
import sys

import cmt_bias
from mmengine.config import Config
from mmengine.runner import Runner

config, work_dir = sys.argv[1:]
cfg = Config.fromfile(config)
cfg.work_dir = work_dir
runner = Runner.from_cfg(cfg)
runner.train()
metrics = runner.test()
generator = runner.model.pts_bbox_head.attention_bias_generator
ranges = []
for epoch in (1, 2):
    runner.load_checkpoint(f'{work_dir}/epoch_{epoch}.pth')
    ranges.append(list(generator.bounds()))
print('RESULT', json.dumps(dict(
    package=cmt_bias.__file__,
    metrics=metrics,
    weight_generator=type(runner.model.pts_bbox_head.weight_generator).__name__,
    scale=generator.bias_scale.item(),
    ranges=ranges,
)))
"""


@pytest.fixture(scope='module')
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter of an environment that has the stack, and the package by `pip install .`."""
    folder = tmp_path_factory.mktemp('environment')
    checkout, environment = folder / 'checkout', folder / 'venv'
    ignored = shutil.ignore_patterns('__pycache__', '*.egg-info', '.mim')
    for name in ('projects', 'configs', 'requirements'):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md'):
        shutil.copy(ROOT / name, checkout / name)
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', environment], check=True)
    interpreter = environment / 'bin' / 'python'
    (site_packages,) = (environment / 'lib').glob('python*/site-packages')
    # The path alone: an editable install of the checkout that lives there does not come along.
    lines = [sysconfig.get_path('purelib')]
    if sys.version_info >= (3, 12):  # mmengine imports distutils, for which setuptools stands in
        lines.append('import _distutils_hack; _distutils_hack.add_shim()')
    (site_packages / 'stack.pth').write_text('\n'.join([*lines, '']))
    options = ['--no-deps', '--no-build-isolation', '--no-index']
    subprocess.run(
        [sys.executable, '-m', 'pip', '--python', interpreter, 'install', '.', *options],
        cwd=checkout,
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    shutil.rmtree(checkout)
    return interpreter


@pytest.fixture(scope='module')
def result(
    python: Path, smallest_nuscenes: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict:
    """What the project's own entry point reports after training and testing."""
    project = tmp_path_factory.mktemp('project')
    (project / 'my_project.py').write_text(WEIGHT_GENERATOR)
    (project / 'config.py').write_text(CONFIG.format(preset=PRESET, data_root=smallest_nuscenes))
    (project / 'main.py').write_text(ENTRY_POINT)
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run(
        [python, 'main.py', 'config.py', 'work_dir'],
        cwd=project,
        env={**environment, 'OMP_NUM_THREADS': '1'},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith('RESULT '))
    return dict(json.loads(line.removeprefix('RESULT ')), work_dir=project / 'work_dir')


def test_package_of_the_environment_is_used(result, python):
    assert Path(result['package']).is_relative_to(python.parents[1])


def test_project_trains_and_tests_with_its_own_weight_generator_and_values(result):
    assert result['weight_generator'] == 'VisibilityWeightGenerator'
    assert result['scale'] != 1.5
    assert abs(result['scale'] - 1.5) < 0.5
    assert any(key.endswith('NDS') for key in result['metrics'])


def test_range_of_an_epoch_is_in_its_checkpoint(result):
    assert result['ranges'] == [[1.0, 2.5], [0.5, 4.0]]


def test_project_gets_the_history_and_the_curve(result):
    rows = (result['work_dir'] / 'bias_scale.csv').read_text().splitlines()
    assert len(rows) == 1 + 1 + 2 * 3  # header, start, two epochs of three samples
    assert (result['work_dir'] / 'bias_scale_curve.png').stat().st_size > 1000
