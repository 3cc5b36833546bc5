"""``tools/sweep_scale.py`` on the smallest data, with random weights."""

from pathlib import Path

import mmengine
import pandas as pd
import pytest
import torch

from cmt_bias.study.study_run import read_test_metrics

from .tiny_models import BASE, biased_config, make_model, run_tool

PREFIX = 'NuScenes metric/pred_instances_3d_NuScenes/'
MODALITY_SCALES = """
model['pts_bbox_head'].update(
    attention_bias_config=dict(scale_granularity='modality', max_scale=5.0))
test_evaluator = [
    dict(type='NuScenesMetric', metric='bbox', **val_evaluator),
    dict(type='DumpResults', out_file_path=''),
]
"""

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope='module')
def models(tmp_path_factory, smallest_nuscenes) -> dict[str, tuple[Path, Path]]:
    """Config and checkpoint of a tiny CMT and of one with two scales and a router."""
    folder = tmp_path_factory.mktemp('models')
    return dict(
        base=make_model(folder, 'base', BASE, smallest_nuscenes),
        biased=make_model(
            folder,
            'biased',
            biased_config('fixed'),
            smallest_nuscenes,
            MODALITY_SCALES,
            (1.5, 4.25),
        ),
    )


@pytest.fixture(scope='module')
def swept(models, tmp_path_factory) -> Path:
    """Work folder of a finished sweep."""
    work_dir = tmp_path_factory.mktemp('sweep')
    values = ('--values', 6, 0)
    done = run_tool('sweep_scale', *models['biased'], *values, *writing_to(work_dir))
    assert done.returncode == 0, done.stdout[-5000:]
    return work_dir


def writing_to(work_dir: Path) -> tuple[object, ...]:
    """Options that send all that a tool writes to a folder."""
    dump = f'test_evaluator.1.out_file_path={work_dir / "results.pkl"}'
    return '--work-dir', work_dir, '--cfg-options', dump


def test_the_learned_row_is_exactly_the_test_of_the_test_tool(models, swept, tmp_path):
    done = run_tool('test', *models['biased'], *writing_to(tmp_path))
    assert done.returncode == 0, done.stdout[-5000:]
    dumps = [mmengine.load(folder / 'results.pkl') for folder in (tmp_path, swept)]
    for by_test, by_sweep in zip(*dumps, strict=True):
        scores = (found['pred_instances_3d']['scores_3d'] for found in (by_test, by_sweep))
        assert torch.equal(*scores)
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
        ('biased', 'biased', ['--values', '1', 'nan'], ['--values: nan', 'from 0']),
        ('biased', 'biased', ['--values', '1', '-2'], ['--values: -2', 'from 0']),
        ('biased', 'base', [], ['lacks parts', 'bias_scale', 'remedy']),
    ],
)
def test_what_cannot_be_swept_is_explained(
    config, checkpoint, extra, messages, models, call_tool, tmp_path
):
    files = models[config][0], models[checkpoint][1]
    status, said = call_tool('sweep_scale', *files, '--work-dir', tmp_path, *extra)
    assert status == 2
    for message in messages:
        assert message in said
