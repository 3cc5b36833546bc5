"""The quickstart needs torch and matplotlib alone, and its scale learns; so does the notebook."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat

EXAMPLES = Path(__file__).parents[2] / 'examples'
SCRIPT = EXAMPLES / 'quickstart.py'
# Modules of this name cannot be imported, as if they were not installed.
HIDE = """
import runpy, sys
sys.modules.update(dict.fromkeys(['mmcv', 'mmdet', 'mmdet3d', 'mmengine', 'nuscenes', 'cv2']))
"""


def run(code: str, folder: Path) -> str:
    """What a Python process prints that finds the package, and no framework."""
    projects = str(EXAMPLES.parent / 'projects')
    environment = dict(os.environ, PYTHONPATH=projects, MPLBACKEND='Agg', OMP_NUM_THREADS='1')
    done = subprocess.run(
        [sys.executable, '-c', HIDE + code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_short_and_its_scale_learns_and_is_drawn(tmp_path):
    assert len(SCRIPT.read_text().splitlines()) <= 60
    printed = run(f'runpy.run_path({str(SCRIPT)!r})', tmp_path)
    steps = [tuple(map(float, re.findall(r'[-+\d.]+', line))) for line in printed.splitlines()]
    first, last = steps[0], steps[-1]
    assert first[1:3] == (1.0, 0.0)  # no trust yet, so no gradient
    assert last[1] > 5
    assert last[3] < 0.3 < 0.9 < first[3]
    assert (tmp_path / 'quickstart.png').read_bytes()[:4] == b'\x89PNG'


def code_cells() -> list[str]:
    notebook = nbformat.read(EXAMPLES / 'quickstart.ipynb', as_version=4)
    nbformat.validate(notebook)
    return [cell.source for cell in notebook.cells if cell.cell_type == 'code']


def test_the_notebook_is_the_script_in_cells():
    code = SCRIPT.read_text().split('"""\n', 1)[1]
    assert re.sub(r'\n+', '\n', '\n'.join(code_cells())).split() == code.split()


def test_the_notebook_runs(tmp_path):
    cells = '\n'.join(code_cells())
    assert 'STEPS = 32, 16, 16, 300' in cells
    printed = run(cells.replace('STEPS = 32, 16, 16, 300', 'STEPS = 4, 16, 16, 2'), tmp_path)
    assert printed.startswith('step   0  scale 1.00')
    assert (tmp_path / 'quickstart.png').is_file()


def test_the_maths_needs_torch_alone(tmp_path):
    code = """
sys.modules.update(dict.fromkeys(['numpy', 'matplotlib', 'pandas']))
import cmt_bias.bias, cmt_bias.ops
print(cmt_bias.__version__, *cmt_bias.bias.__all__)
"""
    printed = run(code, tmp_path).split()
    assert {'AttentionBiasGenerator', 'BiasScale', 'find_windows'} <= set(printed)
    assert 'AttentionBiasCmtHead' not in printed
