"""tools/check_gpu.py where there is no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
    for name, errors in found['exactness'].items():
        bar = 1e-2 if 'float16' in name else 1e-5
        assert name == 'order' or max(map(float, errors)) < bar, (name, errors)
    assert found['determinism'] == {'equal': True} and found['host_syncs'] == 'none'
    assert '| float32 uniform |' in (tmp_path / 'found.md').read_text()


def test_without_a_gpu_it_says_how_to_rehearse():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and '--rehearse' in done.stderr
