"""The report on a made-up study: its numbers, and what it does where something is missing."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cmt_bias.atomic_file import save_figure
from cmt_bias.runs.preflight import ProblemsFound
from cmt_bias.study import study_report
from cmt_bias.study.study_config import Question
from cmt_bias.study.study_plots import draw_curves
from cmt_bias.study.study_report import write_report
from cmt_bias.study.study_results import StudyResults, collect_results

from .made_up_study import PARTS, VARIANTS, write_made_up_study, write_run


@pytest.fixture(scope='module')
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('finished') / 'study'
    write_made_up_study(folder)
    return folder


@pytest.fixture
def study(finished_study: Path, tmp_path: Path) -> Path:
    """A copy to change; times of files count."""
    return Path(shutil.copytree(finished_study, tmp_path / 'study'))


@pytest.fixture(autouse=True)
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are only written by a test that undoes this: that takes the time."""
    monkeypatch.setattr(study_report, 'save_figure', lambda figure, path: path)


def report(study: Path) -> tuple[str, StudyResults]:
    results = collect_results(study)
    return write_report({'made_up': results}, study / 'report').read_text(), results


def add_variant(
    study: Path, name: str, like: str, seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
) -> None:
    for seed in seeds:
        write_run(study / name / f'seed_{seed}', like, seed, stream=777)
    record = json.loads((study / 'record.json').read_text())
    record['variants'][name] = f'the variant {name}'
    (study / 'record.json').write_text(json.dumps(record))


def section(text: str, title: str) -> str:
    return text.split(f'### {title}\n')[1].split('\n#')[0]


def test_report_of_a_finished_study_has_answers_tables_and_pictures(study, monkeypatch):
    monkeypatch.setattr(study_report, 'save_figure', save_figure)
    text, results = report(study)
    assert results.missing == []
    assert 'Unfinished' not in text
    assert '25 of 25 runs (5 variants x 5 seeds) are tested; together 11.0 h' in text
    for picture in ('differences.png', 'curves.png', 'trust.png'):
        assert f'(made_up/{picture})' in text
        assert (study / 'report' / 'made_up' / picture).read_bytes().startswith(b'\x89PNG')
    helps, under_failures, sensors = section(text, 'Answers').strip().splitlines()
    found = results.compare('learned_from_low', 'no_bias', 'whole')
    assert 'Does a bias help?** Yes. The claimed +0.0180 is not excluded.' in helps
    assert f'{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}], n = 5' in helps
    assert 'python tools/run_study.py STUDY --work-dir work_dirs/study\n' in text
    assert '(failures)' in under_failures
    assert f'{found.mean:+.4f}' in under_failures  # each failure costs all the same here
    assert 'No difference seen; more than 0.00' in sensors
    assert '| mAP, failures' in section(text, 'What the design can see')
    assert '| lidar 2.98; camera 1.93 |' in section(text, 'Where the scale ends')
    trust = section(text, 'Whom the router trusts, and where attention goes')
    (fixed,) = (line for line in trust.splitlines() if line.startswith('| fixed'))
    cells = [cell.strip() for cell in fixed.split('|')]
    assert cells[2:6] == ['+0.2000', '-0.1000', '+0.2000', '+0.0500']
    assert cells[6].startswith('+0.1500') and cells[7:9] == ['15.0%', '15.0%']


def test_measures_of_the_robustness_test_are_those_of_its_table(study):
    _, results = report(study)
    assert results.of('fixed', 'failure: camera_drop_all', 'trust fall, spoiled part')[0] == 0.2
    assert results.of('fixed', 'failures', 'trust fall, elsewhere')[0] == pytest.approx(0.05)
    assert results.of('no_bias', 'clean', 'camera attention')[0] == 0.15
    assert results.of('no_bias', 'failures', 'trust fall, elsewhere').empty
    clean, failures = (results.of('no_bias', name, 'mAP') for name in ('clean', 'failures'))
    assert (clean - failures).tolist() == pytest.approx([0.085] * 5)


def test_what_stands_between_the_idea_and_a_gain_is_named(study):
    why = section(report(study)[0], 'Why')
    assert '(camera_drop_all +0.0500 to lidar_beams_4 +0.1200)' in why
    assert '15.0% of its attention is on cameras' in why
    add_variant(study, 'oracle', like='no_bias')  # gains nothing
    assert 'gain is **the bias: it is not shown that even' in section(report(study)[0], 'Why')
    shutil.rmtree(study / 'oracle')
    add_variant(study, 'oracle', like='learned_from_low')
    # The reference is better than no bias by half of what its perfect weights are.
    assert re.search(r'gain is \*\*nothing: the router gains [234]\d% of what', report(study)[0])
    results = collect_results(study)
    fall = ('fixed', slice(None), 'failures'), 'trust fall, spoiled part'
    results.values.loc[fall] = results.values.loc[fall[0], 'trust fall, elsewhere'].to_numpy()
    text = write_report({'made_up': results}, study / 'report').read_text()
    assert 'the router: it does not tell what is spoiled, and gains' in text


def test_what_one_seed_or_no_adjusted_p_shows_is_not_said_to_stand_between(study):
    add_variant(study, 'oracle', like='learned_from_low', seeds=(0,))
    why = section(report(study)[0], 'Why')
    assert '**Bias.** Weights that know' in why and 'stands between' not in why


def test_answer_that_is_significant_alone_but_not_among_all_is_not_shown(study):
    results = collect_results(study)
    gain = np.array([0.0010, 0.0022, 0.0005, 0.0025, 0.0012])  # p = 0.02 alone
    fixed = results.values.loc[('fixed', slice(None), 'whole'), 'mAP'].to_numpy()
    results.values.loc[('per_modality', slice(None), 'whole'), 'mAP'] = fixed + gain
    others = [Question('?', 'learned_from_high', 'fixed', part) for part in PARTS]
    results.questions = (*results.questions, *others)
    text = write_report({'made_up': results}, study / 'report').read_text()
    assert 'Do sensors differ?** Not shown: its own interval leaves out 0' in text


def test_starts_that_do_not_meet_are_told(study):
    ends = section(report(study)[0], 'Where the scale ends')
    assert '1.50 to 2.07, 3.50 to 3.31: 62% of the distance' in ends
    assert 'They do not meet' in ends


def test_routers_that_make_up_for_the_scale_are_told(study):
    results = collect_results(study)

    def told() -> str:
        path = write_report({'made_up': results}, study / 'report')
        return section(path.read_text(), 'Where the scale ends')

    assert 'fixed 2.50 (+0.50, -0.25); learned_from_low 2.07 (+0.41, -0.21)' in told()
    assert 'make up' not in told()  # all have the same weights
    for variant in ('fixed', 'learned_from_low', 'learned_from_high'):
        scales = results.of(variant, 'whole', 'final scale (shared)')
        row = (variant, slice(None), 'clean'), 'camera trust'
        results.values.loc[row] = (0.6 / scales).to_numpy()
    assert 'learned_from_high 3.31 (+0.66, +0.60). The routers make up for the scale' in told()


def test_starts_that_are_alike_are_not_compared(study):
    shutil.rmtree(study / 'learned_from_high')
    add_variant(study, 'learned_slow', like='learned_from_low')
    ends = section(report(study)[0], 'Where the scale ends')
    (only,) = (line for line in ends.splitlines() if line.startswith('- '))
    assert only.startswith('- The scale at the end, and times the mean trust')


def test_movement_of_scales_is_the_largest_of_any_seed(study):
    results = collect_results(study)
    drift = ('learned_from_low', slice(None), 'whole'), 'drift in the last fifth (shared)'
    results.values.loc[drift] = [0.3, -0.3, 0.3, -0.3, 0.0]
    text = write_report({'made_up': results}, study / 'report').read_text()
    assert 'none of them moves by more than 0.300' in text


def test_more_of_an_error_is_no_yes(study):
    results = collect_results(study)
    change = np.linspace(0.04, 0.06, 5)
    for variant, errors in (('learned_from_low', 0.5 + change), ('no_bias', 5 * [0.5])):
        results.values.loc[(variant, slice(None), 'whole'), 'mATE'] = errors
    question = Question('Is the place better?', 'learned_from_low', 'no_bias', metric='mATE')
    results.questions = (question,)
    text = write_report({'made_up': results}, study / 'report').read_text()
    assert 'Is the place better?** No, the opposite.' in text


def test_page_has_all_studies_and_is_made_again_from_their_tables_alone(study):
    text, results = report(study)
    for variant in VARIANTS:
        shutil.rmtree(study / variant)
    assert write_report({}, study / 'report').read_text() == text
    both = write_report({'other': results}, study / 'report').read_text()
    assert both.count('\n## Learned scale of the attention bias\n') == 2


def test_one_seed_gives_no_answer(tmp_path):
    write_made_up_study(tmp_path, seeds=(4,))
    answers = section(report(tmp_path)[0], 'Answers')
    assert answers.count('Not known: 1 pairs of seeds have both.') == 3


def test_two_seeds_are_judged_by_the_spread_of_all_variants(tmp_path):
    write_made_up_study(tmp_path, seeds=(1, 2))
    answers = section(report(tmp_path)[0], 'Answers')
    assert answers.count('n = 2') == 3 and 'Does a bias help?** Yes.' in answers


def test_what_is_missing_is_marked_and_the_rest_reported(study):
    shutil.rmtree(study / 'per_modality' / 'seed_1')
    shutil.rmtree(study / 'fixed' / 'seed_3')
    (study / 'learned_from_low' / 'seed_2' / 'failures' / 'robustness.csv').unlink()
    change_state(study / 'no_bias' / 'seed_0', metrics={}, checkpoint='', failure='status 1')
    change_state(study / 'no_bias' / 'seed_1', metrics={}, checkpoint='')
    text, _ = report(study)
    assert '21 of 25 runs' in text
    missing = text.split('**Unfinished.**')[1].split('#')[0]
    assert '- failed, status 1: no_bias 0\n' in missing
    assert '- not finished: no_bias 1\n' in missing
    assert '- not started: fixed 3, per_modality 1\n' in missing
    assert '- no test under sensor failures: learned_from_low 2\n' in missing
    assert 'n = 3' in section(text, 'Answers')


def test_study_without_any_run_has_a_report(study):
    for variant in VARIANTS:
        shutil.rmtree(study / variant)
    text, _ = report(study)
    assert '0 of 25 runs' in text
    assert 'Not known: 0 pairs of seeds have both.' in text


def test_detections_that_are_not_those_of_the_test_are_named(study):
    change_state(
        study / 'fixed' / 'seed_0', metrics={'pred_NuScenes/NDS': 0.5, 'pred_NuScenes/mAP': 0.9}
    )
    _, results = report(study)
    assert len(results.missing) == 2
    assert 'but tools/test.py wrote 0.9 (the file is not the one' in results.missing[0]


@pytest.mark.parametrize(
    ('version', 'said'),
    [
        ('v1.0-trainval', "the tables 'no/such/data/v1.0-trainval' are not there"),
        ('v1.0-test', "version 'v1.0-test' has no validation split"),
    ],
)
def test_without_the_data_the_whole_is_reported_as_it_was_tested(study, version, said):
    folder = study / 'no_bias' / 'seed_0'
    (folder / 'subset_metrics.json').unlink()
    config = dict(
        test_dataloader=dict(dataset=dict(metainfo=dict(version=version))),
        test_evaluator=dict(type='NuScenesMetric', data_root='no/such/data'),
    )
    (folder / 'config.py').write_text('\n'.join(f'{k} = {v!r}' for k, v in config.items()))
    _, results = report(study)
    (problem,) = results.missing
    assert f'{said}: no_bias 0' in problem
    tested = json.loads((folder / 'state.json').read_text())['metrics']
    assert results.of('no_bias', 'whole', 'mAP')[0] in tested.values()
    assert 0 not in results.of('no_bias', 'night', 'mAP')


def test_tables_hold_every_measure_of_every_run(study):
    report(study)
    runs = pd.read_csv(study / 'report' / 'made_up' / 'runs.csv')
    assert set(runs['variant']) == set(VARIANTS)
    assert {'mAP', 'NDS', 'AP pedestrian', 'camera attention'} <= set(runs)
    assert not runs.duplicated(['variant', 'seed', 'subset']).any()
    curves = pd.read_csv(study / 'report' / 'made_up' / 'curves.csv')
    assert {'loss', 'scale (shared)', 'scale (lidar)', 'scale (camera)'} <= set(curves)
    assert curves.groupby(['variant', 'seed']).size().max() <= 60


def test_curves_run_forward_whatever_the_order_of_their_rows(study):
    results = collect_results(study)
    results.curves = results.curves.sort_index()
    results.curves.loc[('fixed', 0, 0), 'scale (shared)'] = 2.5  # its first row, put last
    results.curves = results.curves.iloc[::-1]
    for axes in draw_curves(results).axes:
        assert axes.lines
        assert all((np.diff(line.get_xdata()) > 0).all() for line in axes.lines)


def test_study_whose_losses_are_gone_has_a_report_without_curves(study):
    for log in study.glob('*/*/train/*/vis_data/scalars.json'):
        log.unlink()
    text, results = report(study)
    assert [problem.partition(':')[0] for problem in results.missing] == [
        'no loss in the log of the training'
    ]
    assert 'curves.png' not in text and 'trust.png' in text
    assert results.of('fixed', 'whole', 'final scale (shared)').tolist() == [2.5] * 5


def test_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(ProblemsFound, match='has no readable results of a study'):
        collect_results(tmp_path)


def change_state(folder: Path, **changes: object) -> None:
    path = folder / 'state.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
