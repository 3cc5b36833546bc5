"""Two gloo processes against one, with every preset, on the smallest synthetic data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / 'configs' / 'cmt_bias').glob('cmt-bias-*-tiny_*.py'))
WORKER = Path(__file__).with_name('data_parallel_training.py')

pytestmark = [pytest.mark.end_to_end]


@pytest.fixture(scope='module')
def scales(smallest_nuscenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """By process: for each preset the scale after each step."""
    folder = tmp_path_factory.mktemp('scales')
    torchrun = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT / 'projects')}
    running = []
    for name, launcher in dict(single=(), pair=torchrun).items():  # side by side
        command = [sys.executable, *launcher, WORKER, f'{smallest_nuscenes}/', folder / name]
        with (folder / f'{name}.log').open('w') as log:
            arguments = [*map(str, command), *map(str, PRESETS)]
            running.append(
                subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=log, stderr=log)
            )
    for process in running:
        process.wait(timeout=800)
    for name, process in zip(('single', 'pair'), running, strict=True):
        assert process.returncode == 0, (folder / f'{name}.log').read_text()[-5000:]
    return {path.stem: json.loads(path.read_text()) for path in folder.glob('*.json')}


@pytest.mark.parametrize('preset', PRESETS, ids=lambda path: path.stem.split('-')[2])
def test_scale_is_the_same_on_both_ranks_and_in_one_process(scales, preset):
    single, first, second = (
        scales[name][preset.stem] for name in ('single.0', 'pair.0', 'pair.1')
    )
    assert first == second
    for of_pair, alone in zip(first, single, strict=True):
        assert of_pair == pytest.approx(alone, rel=1e-6)
    if '-fixed-' in preset.stem:
        assert all(step == [2.5] for step in first)
    else:
        assert first[-1] != first[0]
