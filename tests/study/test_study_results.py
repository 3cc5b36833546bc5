"""Runs of a study as tables: which failures are compared, and what belongs to whom."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from cmt_bias.failures import all_failures
from cmt_bias.robustness.report import long_table
from cmt_bias.study.study_results import (
    StudyResults,
    collect_results,
    load_results,
    work_dir_record,
)

from .made_up_study import write_made_up_study


@pytest.fixture(scope='module')
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('finished') / 'study'
    write_made_up_study(folder, seeds=(0, 1, 2))
    return folder


@pytest.fixture
def study(finished_study: Path, tmp_path: Path) -> Path:
    """A copy to change; times of files count."""
    return Path(shutil.copytree(finished_study, tmp_path / 'study'))


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite_table(run: Path, change_it) -> None:
    path = run / 'failures' / 'robustness.csv'
    change_it(pd.read_csv(path).set_index('failure')).to_csv(path)


def under_failures(results: StudyResults, variant: str = 'fixed') -> pd.Series:
    return results.of(variant, 'failures', 'mAP')


def test_only_what_was_tested_under_the_failures_of_the_study_is_compared(study):
    changed, untested = study / 'fixed' / 'seed_0', study / 'fixed' / 'seed_2'
    # As a study whose failures have changed leaves it while it is tested again.
    change(changed / 'state.json', failures_tested=['*', 'data_root=small'])
    change(untested / 'state.json', failures_tested=[])  # trained anew, say
    results = collect_results(study)
    assert under_failures(results).index.tolist() == [1]
    assert len(results.of('fixed', 'failure: camera_drop_all', 'mAP')) == 1
    assert results.missing == [
        'tested under other failures, or with other settings: fixed 0',
        'no test under sensor failures: fixed 2',
    ]


def test_tables_of_a_study_that_has_no_failures_any_more_are_left_alone(study):
    change(study / 'record.json', tested_failures=[])
    for state in study.glob('*/*/state.json'):
        change(state, failures_tested=[])
    results = collect_results(study)
    assert results.missing == []
    assert under_failures(results).empty


@pytest.mark.parametrize('record', ['record.json', 'study.json'])
def test_record_that_does_not_say_under_what_runs_are_tested_takes_all_of_them(study, record):
    expected = under_failures(collect_results(study))
    content = json.loads((study / 'record.json').read_text())
    del content['tested_failures']
    (study / 'record.json').unlink()
    (study / record).write_text(json.dumps(content))  # before, it was called study.json
    change(study / 'fixed' / 'seed_0' / 'state.json', failures_tested=['lidar_*'])
    results = collect_results(study)
    assert results.missing == []
    assert under_failures(results).equals(expected)


def test_finished_study_of_an_older_record_without_failures_is_not_unfinished(study):
    change(study / 'record.json', tested_failures=None)
    for run in study.glob('*/seed_*'):
        (run / 'failures' / 'robustness.csv').unlink()
    assert collect_results(study).missing == []


def test_run_whose_test_has_no_nuscenes_metrics_is_named_and_the_rest_collected(study):
    change(study / 'fixed' / 'seed_0' / 'state.json', metrics={'coco/bbox_mAP': 0.3})
    results = collect_results(study)
    assert results.missing == ['no nuScenes metrics of the test: fixed 0']
    assert results.of('fixed', 'whole', 'mAP').index.tolist() == [1, 2]


def test_record_alone_has_empty_tables_and_is_read_as_it_was_saved(study, tmp_path):
    results = work_dir_record(study)
    assert results.subsets() == results.failures() == []
    results.save(tmp_path / 'saved')
    assert load_results(tmp_path / 'saved').values.empty


def test_mean_is_over_the_failures_that_all_runs_have(study):
    content = json.loads((study / 'record.json').read_text())
    (study / 'record.json').write_text(json.dumps({**content, 'tested_failures': None}))
    rewrite_table(study / 'fixed' / 'seed_1', lambda table: table.drop(index='lidar_beams_4'))
    results = collect_results(study)
    (said,) = results.missing
    assert said.startswith('the mean over failures leaves out what other runs do not have, lidar_')
    assert 'fixed 0 2' in said and 'no_bias 0 1 2' in said
    alone = results.of('no_bias', 'failure: camera_drop_all', 'mAP')
    assert under_failures(results, 'no_bias').equals(alone)


def test_failures_of_a_sensor_that_the_models_do_not_have_are_left_out(study):
    def without_cameras(table: pd.DataFrame) -> pd.DataFrame:
        table.loc['camera_drop_all', 'status':] = None
        row = long_table({'model': 'L'}, all_failures(), {}).set_index('failure')
        table.loc['camera_drop_all', 'status'] = row.loc['camera_drop_all', 'status']
        return table

    for run in study.glob('*/seed_*'):
        rewrite_table(run, without_cameras)
    results = collect_results(study)
    assert results.missing == []
    alone = results.of('fixed', 'failure: lidar_beams_4', 'mAP')
    assert len(alone) == 3 and under_failures(results).equals(alone)


def test_failure_without_score_is_named(study):
    def unscored(table: pd.DataFrame) -> pd.DataFrame:
        table.loc['lidar_beams_4', 'mAP'] = None
        return table

    rewrite_table(study / 'fixed' / 'seed_2', unscored)
    results = collect_results(study)
    assert results.missing == ['no score under lidar_beams_4: fixed 2']
    assert under_failures(results).index.tolist() == [0, 1]


def test_a_record_that_tables_were_written_over_gives_the_same_results(study):
    """As `--out-dir` above the work directory could do."""
    results = collect_results(study)
    results.save(study)
    (study / 'record.json').unlink()
    again = collect_results(study)
    assert again.hours == results.hours > 0
    assert again.values.equals(results.values)


def test_work_directory_has_a_record_and_no_tables(study):
    assert [path.name for path in study.glob('*.*')] == ['record.json']


@pytest.mark.parametrize(
    'names',
    [list('12345'), ['007', '1e3', '0x1', 'true', 'inf'], ['NA', 'nan', 'null', 'None', 'n']],
)
def test_every_name_of_a_variant_is_read_as_it_was_saved(study, names, tmp_path):
    results = collect_results(study)
    for table in (results.values, results.curves):
        table.index = table.index.set_levels(names, level='variant', verify_integrity=False)
    results.save(tmp_path / 'saved')
    read = load_results(tmp_path / 'saved')
    assert read.values.index.equals(results.values.index)
    assert read.curves.index.equals(results.curves.index)
    assert len(read.of(names[1], 'whole', 'mAP')) == 3
    assert read.values['mAP'].isna().equals(results.values['mAP'].isna())
