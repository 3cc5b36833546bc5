"""tools/check_gpu.py where there is no GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from cmt_bias.ops import triton_attention

SCRIPT = Path(__file__).parents[2] / 'tools' / 'check_gpu.py'


@pytest.mark.skipif(
    triton_attention._why_not_here() is not None, reason=str(triton_attention._why_not_here())
)
def test_all_checks_can_be_rehearsed_without_a_gpu_and_without_the_openmmlab_stack(tmp_path):
    blocked = tmp_path / 'blocked'
    for package in ('mmcv', 'mmdet', 'mmengine'):
        blocked.joinpath(package).mkdir(parents=True)
        blocked.joinpath(package, '__init__.py').write_text('raise ImportError("blocked")')
    hide = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n in ('mmdet3d', 'mmengine') else f(n, *a)\n"  # noqa: E501
    (blocked / 'sitecustomize.py').write_text(hide)
    done = subprocess.run(
        [sys.executable, SCRIPT, '--rehearse', '--out', tmp_path / 'found'],
        capture_output=True, text=True, check=False, env=dict(os.environ, PYTHONPATH=str(blocked)),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / 'found.json').read_text())
    assert {'float32 uniform', 'float16 windows alone'} <= found['exactness'].keys()
    assert 'wrong' not in found['exactness']
    assert found['determinism'] == {'equal': True} and found['host_syncs'] == 'none'
    assert '| float32 uniform |' in (tmp_path / 'found.md').read_text()


def test_without_a_gpu_it_says_how_to_rehearse():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and '--rehearse' in done.stderr


@pytest.fixture
def check_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The tool, which is to rehearse one check."""
    spec = importlib.util.spec_from_file_location('check_gpu', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'check_gpu', module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.triton_attention, '_why_not_here', lambda: None)
    monkeypatch.chdir(tmp_path)
    return module


ORDER = 'output, query, key, value, strength'


@pytest.mark.parametrize(
    ('name', 'result', 'status'),
    [
        ('determinism', {'equal': False}, 1),
        ('determinism', {'equal': True}, 0),
        ('cuda_graph', {'equal': False, 'milliseconds': 1.0}, 1),
        ('cuda_graph', {}, 0),
        ('exactness', {'order': ORDER, 'float32 uniform': ['1e-7', '1e-4', '1e-7', '1e-7']}, 1),
        ('exactness', {'order': ORDER, 'float32 uniform': ['1e-7'] * 4 + ['1e-4']}, 1),
        ('exactness', {'order': ORDER, 'float16 uniform': ['1e-3', 'nan', '1e-3', '1e-3']}, 1),
        ('exactness', {'order': ORDER, 'bfloat16 uniform': ['3e-3'] * 4 + ['2e-2']}, 0),
        ('times', {'800x320': {'triton': {'error': 'OutOfResources'}}}, 1),
        ('times', {'800x320': {'triton': {'forward': 1.0}, 'flex': {'error': 'none'}}}, 0),
        ('whole_model', 'left out: mmdet3d is not installed', 0),
    ],
)
def test_what_is_wrong_is_told_by_the_exit_status(check_gpu, monkeypatch, name, result, status):
    monkeypatch.setattr(check_gpu.Checks, name, lambda self: result)
    monkeypatch.setattr(sys, 'argv', ['check_gpu', '--rehearse', '--only', name])
    assert check_gpu.main() == status
    found = json.loads(Path('gpu_check.json').read_text())[name]
    assert ('wrong' in found) == bool(status)


def test_a_model_that_does_not_train_is_a_failure(check_gpu, monkeypatch):
    checks = check_gpu.Checks(check_gpu.torch.device('cpu'), rehearse=True)
    checks.cuda = True
    failed = SimpleNamespace(returncode=1, stdout='', stderr='RuntimeError: the cause')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: name)
    monkeypatch.setattr('subprocess.run', lambda *args, **kwargs: failed)
    with pytest.raises(RuntimeError, match='the cause'):
        checks.whole_model()
