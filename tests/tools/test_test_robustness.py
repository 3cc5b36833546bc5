"""``tools/test_robustness.py`` on the smallest data, with random weights."""

import json
from pathlib import Path

import pandas as pd
import pytest

from .tiny_models import BASE, biased_config, make_model, run_tool

PREFIX = 'NuScenes metric/pred_instances_3d_NuScenes/'

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope='module')
def models(tmp_path_factory, smallest_nuscenes) -> dict[str, tuple[Path, Path]]:
    """Config and checkpoint of a tiny CMT and of one with a bias, whose router is not zero."""
    folder = tmp_path_factory.mktemp('models')
    return dict(
        base=make_model(folder, 'base', BASE, smallest_nuscenes),
        biased=make_model(folder, 'biased', biased_config('fixed'), smallest_nuscenes),
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
    done = run_tool('test_robustness', *arguments(models, work_dir))
    assert done.returncode == 0, done.stdout[-5000:]
    return work_dir


def test_the_clean_row_is_exactly_the_test_of_the_test_tool(models, tested, tmp_path):
    config, checkpoint = models['biased']
    done = run_tool('test', config, checkpoint, '--work-dir', tmp_path)
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
    done = run_tool('test_robustness', *arguments(models, tested))
    assert done.returncode == 0, done.stdout[-5000:]
    assert '3 tests were finished earlier, 1 are to be made' in done.stdout
    assert repr(json.loads(lost.read_text())) == repr(before)
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        (['--failures', 'lidar_flood'], 'lidar_drop'),
        (['--names', 'a', 'b'], '--names'),
        ([], 'none.pth'),
    ],
)
def test_arguments_that_cannot_be_meant_are_explained(extra, message, models, call_tool, tmp_path):
    files = [models['base'][0], tmp_path / 'none.pth', '--work-dir', tmp_path / 'work']
    status, said = call_tool('test_robustness', *files, *extra)
    assert status == 2
    assert 'remedy' in said and message in said
    assert not (tmp_path / 'work').exists()
