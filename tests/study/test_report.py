"""The report on a made-up study: its numbers, and what it does where something is missing."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from cmt_bias.runs.preflight import ProblemsFound
from cmt_bias.study.report import write_report
from cmt_bias.study.run_results import RunReader
from cmt_bias.study.study_results import StudyResults, read_results

from .made_up_study import VARIANTS, write_made_up_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_made_up_study(tmp_path / 'study')
    return tmp_path / 'study'


def report(study: Path) -> tuple[str, StudyResults]:
    results = read_results(study, RunReader())
    return write_report(results, study / 'report').read_text(), results


def test_report_pictures_and_csv_of_a_finished_study(study):
    text, results = report(study)
    assert results.problems == []
    assert '## Missing' not in text
    assert '12 of 12 runs are trained and tested' in text
    for picture in ('scale_curves', 'loss_curves', 'differences'):
        assert f'({picture}.png)' in text
        content = (study / 'report' / f'{picture}.png').read_bytes()
        assert content.startswith(b'\x89PNG')
    summary = pd.read_csv(study / 'report' / 'summary.csv').set_index(
        ['variant', 'subset', 'metric']
    )
    row = summary.loc['learned_1.5', 'night', 'mAP']
    assert row['n'] == row['pairs'] == 3
    shown = f'{row["mean"]:.4f} ± {row["std"]:.4f}'
    assert shown in text.split('### night')[1].split('### rain')[0]
    runs = pd.read_csv(study / 'report' / 'runs.csv')
    assert set(runs['variant']) == set(VARIANTS)
    parts = pd.read_csv(study / 'report' / 'parts.csv').set_index('kind')
    assert parts.loc['condition', 'samples'].sum() == parts.loc['whole', 'samples']


def test_words_follow_the_intervals(study):
    text, results = report(study)
    summary = results.summary.set_index(['variant', 'subset', 'metric'])
    for variant in VARIANTS:
        if variant != 'fixed_2.5':
            verdict = summary.loc[(variant, 'whole', 'mAP'), 'verdict']
            assert f'- **{variant}** against fixed_2.5: mAP: {verdict} (' in text


def test_variant_with_one_seed_has_no_interval(tmp_path):
    write_made_up_study(tmp_path, seeds=(4,))
    text, _ = report(tmp_path)
    assert 'mAP: one seed: no interval; NDS: one seed: no interval.' in text
    assert 'Noise of a seed' not in text
    assert 'worse' not in text.split('## How to read')[0]


def test_what_is_missing_is_marked_and_the_rest_reported(study):
    shutil.rmtree(study / 'per_modality' / 'seed_1')
    (study / 'learned_1.5' / 'seed_2' / 'train' / 'bias_scale.csv').unlink()
    change_state(study / 'no_bias' / 'seed_0', metrics={}, checkpoint='', failure='status 1')
    change_state(study / 'no_bias' / 'seed_1', metrics={}, checkpoint='')
    change_state(study / 'no_bias' / 'seed_2', metrics={})
    text, results = report(study)
    assert '8 of 12 runs are trained and tested' in text
    missing = text.split('## Missing')[1].split('##')[0]
    assert '- no_bias, seed 0: failed: status 1' in missing
    assert '- no_bias, seed 1: training not finished' in missing
    assert '- no_bias, seed 2: trained, not tested' in missing
    assert '- per_modality, seed 1: not started' in missing
    assert '- learned_1.5, seed 2: no history of the scale' in missing
    assert '**no_bias** against fixed_2.5: mAP: no run tested' in text
    assert '(n = 2)' in text
    assert len(results.problems) == 5


def test_study_without_any_run_has_a_report(study):
    for variant in VARIANTS:
        shutil.rmtree(study / variant)
    text, _ = report(study)
    assert '0 of 12 runs' in text
    assert 'Nothing yet: no run is tested.' in text


def test_without_the_data_the_whole_is_reported_as_it_was_tested(study):
    folder = study / 'no_bias' / 'seed_0'
    (folder / 'subset_metrics.json').unlink()
    config = dict(
        model=dict(pts_bbox_head={}),
        test_dataloader=dict(dataset=dict(metainfo=dict(version='v1.0-trainval'))),
        test_evaluator=dict(type='NuScenesMetric', data_root='no/such/data'),
    )
    (folder / 'config.py').write_text('\n'.join(f'{k} = {v!r}' for k, v in config.items()))
    _, results = report(study)
    (problem,) = results.problems
    assert 'no metrics by condition and distance: AssertionError' in problem
    values = results.values.set_index(['variant', 'seed', 'subset', 'metric'])['value']
    tested = json.loads((folder / 'state.json').read_text())['metrics']
    assert values['no_bias', 0, 'whole', 'mAP'] in tested.values()
    assert ('no_bias', 0, 'night', 'mAP') not in values.index


def test_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(ProblemsFound, match='is not the folder of a study'):
        read_results(tmp_path, RunReader())


def change_state(folder: Path, **changes: object) -> None:
    path = folder / 'state.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
