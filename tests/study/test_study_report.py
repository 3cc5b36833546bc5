"""The report on a made-up study: its numbers, and what it does where something is missing."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from cmt_bias.runs.preflight import ProblemsFound
from cmt_bias.study.seed_statistics import compare
from cmt_bias.study.study_report import write_report
from cmt_bias.study.study_results import StudyResults, collect_results, load_results

from .made_up_study import VARIANTS, write_made_up_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_made_up_study(tmp_path / 'study')
    return tmp_path / 'study'


def report(study: Path) -> tuple[str, StudyResults]:
    results = collect_results(study)
    return write_report(results, study / 'report').read_text(), results


def test_report_of_a_finished_study_has_answers_tables_and_pictures(study):
    text, results = report(study)
    assert results.missing == []
    assert '## Missing' not in text
    assert '20 of 20 runs (4 variants x 5 seeds) are tested; together 8.8 h' in text
    for picture in ('differences.png', 'curves.png'):
        assert f'({picture})' in text
        assert (study / 'report' / picture).read_bytes().startswith(b'\x89PNG')
    answers = text.split('## Answers')[1].split('##')[0]
    helps, under_failures, sensors = answers.strip().splitlines()
    found = compare(results.values, 'learned_from_low', 'no_bias', 'whole', 'mAP')
    assert 'Does a bias help?** Higher. The claimed +0.0180 is in the interval.' in helps
    assert f'{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}], n = 5' in helps
    assert 'can see 0.0' in helps
    assert '(failures)' in under_failures
    assert f'{found.difference:+.4f}' in under_failures  # each failure costs all the same here
    assert 'No difference seen; one above 0.0' in sensors
    trust = text.split('## Does trust move?')[1].split('##')[0]
    assert '+0.030' in trust and 'no_bias' not in trust
    values = results.values.set_index(['variant', 'seed', 'subset', 'metric'])['value']
    black = values['fixed', 0, 'failure: cameras_black']
    assert black['trust fall, spoiled part'] == 0.2
    assert black['trust fall, elsewhere'] == 0.05
    assert values['no_bias', 0, 'whole', 'camera attention'] == 0.15
    assert 'lidar 2.98 ± 0.00; camera 1.93 ± 0.00' in text


def test_report_is_made_again_from_its_tables_alone(study):
    text, _ = report(study)
    for variant in VARIANTS:
        shutil.rmtree(study / variant)
    assert write_report(load_results(study / 'report'), study / 'again').read_text() == text


def test_one_seed_gives_no_answer(tmp_path):
    write_made_up_study(tmp_path, seeds=(4,))
    text, _ = report(tmp_path)
    answers = text.split('## Answers')[1].split('##')[0]
    assert answers.count('Not known: 1 pairs of seeds.') == 3


def test_what_is_missing_is_marked_and_the_rest_reported(study):
    shutil.rmtree(study / 'per_modality' / 'seed_1')
    (study / 'learned_from_low' / 'seed_2' / 'failures' / 'robustness.csv').unlink()
    change_state(study / 'no_bias' / 'seed_0', metrics={}, checkpoint='', failure='status 1')
    change_state(study / 'no_bias' / 'seed_1', metrics={}, checkpoint='')
    text, results = report(study)
    assert '17 of 20 runs' in text
    missing = text.split('## Missing')[1].split('##')[0]
    assert '- no_bias, seed 0: failed: status 1' in missing
    assert '- no_bias, seed 1: not finished' in missing
    assert '- per_modality, seed 1: not started' in missing
    assert '- learned_from_low, seed 2: no test under sensor failures' in missing
    assert 'n = 3' in text.split('## Answers')[1]
    assert '(n = 4)' in text
    assert len(results.missing) == 4


def test_study_without_any_run_has_a_report(study):
    for variant in VARIANTS:
        shutil.rmtree(study / variant)
    text, _ = report(study)
    assert '0 of 20 runs' in text
    assert 'Not known: 0 pairs of seeds.' in text


def test_detections_that_are_not_those_of_the_test_are_named(study):
    change_state(
        study / 'fixed' / 'seed_0', metrics={'pred_NuScenes/NDS': 0.5, 'pred_NuScenes/mAP': 0.9}
    )
    _, results = report(study)
    assert len(results.missing) == 2
    assert 'but tools/test.py wrote 0.9: the file is not the one' in results.missing[0]


def test_without_the_data_the_whole_is_reported_as_it_was_tested(study):
    folder = study / 'no_bias' / 'seed_0'
    (folder / 'subset_metrics.json').unlink()
    config = dict(
        test_dataloader=dict(dataset=dict(metainfo=dict(version='v1.0-trainval'))),
        test_evaluator=dict(type='NuScenesMetric', data_root='no/such/data'),
    )
    (folder / 'config.py').write_text('\n'.join(f'{k} = {v!r}' for k, v in config.items()))
    _, results = report(study)
    (problem,) = results.missing
    assert 'no metrics by condition and distance: AssertionError' in problem
    values = results.values.set_index(['variant', 'seed', 'subset', 'metric'])['value']
    tested = json.loads((folder / 'state.json').read_text())['metrics']
    assert values['no_bias', 0, 'whole', 'mAP'] in tested.values()
    assert ('no_bias', 0, 'night', 'mAP') not in values.index


def test_tables_hold_every_measure_of_every_run(study):
    report(study)
    runs = pd.read_csv(study / 'report' / 'runs.csv')
    assert set(runs['variant']) == set(VARIANTS)
    assert runs.groupby(['variant', 'seed', 'subset', 'metric']).size().max() == 1
    curves = pd.read_csv(study / 'report' / 'curves.csv')
    assert set(curves['name']) == {'loss', 'scale (shared)', 'scale (lidar)', 'scale (camera)'}
    assert curves.groupby(['variant', 'seed', 'name']).size().max() <= 60


def test_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(ProblemsFound, match='has no readable results of a study'):
        collect_results(tmp_path)


def change_state(folder: Path, **changes: object) -> None:
    path = folder / 'state.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
