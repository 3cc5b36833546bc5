"""A cell's test leaves the files of other tests alone."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from cmt_bias.checkpoints import shipped_weights
from cmt_bias.failures import all_failures
from cmt_bias.robustness.cell import (
    CellResult,
    cell_config,
    identity_of,
    load_result,
    save_result,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'cell.json'


def test_result_is_read_as_it_was_saved(path):
    assert load_result(path, 'identity') is None
    result = CellResult(
        'identity',
        1 / 3,
        0.25,
        {'NDS': 1 / 3, 'error': math.inf},
        3,
        3,
        {'a': [0.1, -0.2]},
        {'a': [0.3, 0.0]},
        [0.5],
    )
    save_result(path, result)
    assert load_result(path, 'identity') == result


@pytest.mark.parametrize(
    'content',
    ['', '{"identity": "identity"', '[]', '3', '{}', '{"identity": "identity"}', '\x00\x01'],
)
def test_damaged_result_counts_as_none(path, content):
    path.write_text(content)
    assert load_result(path, 'identity') is None


@pytest.mark.parametrize('key', ['weights', 'falls'])
@pytest.mark.parametrize('damaged', [{'a': [0.1]}, {'a': 3}, {'a': ['x', 'y']}, [1, 2], None])
def test_result_whose_pairs_are_damaged_counts_as_none(path, key, damaged):
    good = dict(identity='identity', nds=0.5, mean_ap=0.25, weights={'a': [0.1, math.nan]})
    path.write_text(json.dumps(good))
    assert load_result(path, 'identity') is not None
    path.write_text(json.dumps({**good, key: damaged}))
    assert load_result(path, 'identity') is None


def test_result_of_other_settings_counts_as_none(path):
    save_result(path, CellResult('another', 0.5, 0.25))
    assert load_result(path, 'identity') is None


def test_detections_of_a_finished_run_are_not_overwritten():
    metric = dict(type='NuScenesMetric', jsonfile_prefix='work_dirs/study/run/detections')
    for evaluator in (dict(metric), [dict(metric), dict(type='Other')]):
        cfg = cell_config(Config(dict(test_evaluator=evaluator)), all_failures()[0], seed=0)
        kept = cfg.test_evaluator if isinstance(evaluator, dict) else cfg.test_evaluator[0]
        assert kept == dict(type='NuScenesMetric')


def routed(**weights: np.ndarray) -> CellResult:
    return CellResult('identity', 0.5, 0.25, weights={'a': [0.1, -0.2]}, query_weights=weights)


def test_weights_of_queries_are_read_as_they_were_saved(path):
    save_result(path, routed(a=np.float16([[0.5, -1], [0, 1]])))
    assert load_result(path, 'identity').query_weights == {}
    read = load_result(path, 'identity', with_query_weights=True).query_weights
    assert list(read) == ['a']
    assert read['a'].dtype == np.float16
    assert read['a'].tolist() == [[0.5, -1], [0, 1]]
    assert 'query_weights' not in json.loads(path.read_text())


def test_clean_test_whose_weights_of_queries_are_lost_is_made_again(path):
    save_result(path, routed())
    assert load_result(path, 'identity') == routed()
    assert load_result(path, 'identity', with_query_weights=True) is None
    save_result(path, routed(a=np.float16([[0.5, -1], [0, 1]])))
    assert load_result(path, 'identity', with_query_weights=True) == routed()
    path.with_suffix('.npz').write_bytes(b'PK damaged')
    assert load_result(path, 'identity', with_query_weights=True) is None
    path.with_suffix('.npz').unlink()
    without_router = CellResult('identity', 0.5, 0.25)
    save_result(path, without_router)
    assert load_result(path, 'identity', with_query_weights=True) == without_router


def test_identity_tells_weights_of_the_package_from_those_that_had_their_name(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(shipped_weights, 'FOLDER', tmp_path)
    cfg = Config(dict(model=dict(type='A')))
    found = set()
    for digest in ('1', '2', '2'):
        (tmp_path / 'base.json').write_text(json.dumps(dict(sha256=digest)))
        found.add(identity_of(cfg, 'cmt_bias://base'))
    assert len(found) == 2


def test_identity_of_a_file_is_that_of_earlier_versions(tmp_path):
    """By hand: what was tested must not be tested again."""
    file = tmp_path / 'epoch_1.pth'
    file.write_bytes(b'weights')
    stamp = [7, file.stat().st_mtime_ns]
    text = json.dumps([dict(model=dict(type='A')), str(file), stamp], sort_keys=True)
    cfg = Config(dict(model=dict(type='A'), work_dir='elsewhere'))
    assert identity_of(cfg, str(file)) == hashlib.sha256(text.encode()).hexdigest()
