"""tools/analyze_study.py writes the tables of a study where they belong to it alone."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cmt_bias.study.study_config import Study
from cmt_bias.study.study_results import load_results, write_record

from .tool_modules import load_tool


@pytest.fixture
def analyze(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the tool in this process, in an empty folder; its exit status."""
    module = load_tool('analyze_study')
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, 'argv', ['analyze_study.py', *arguments])
        try:
            module.run_tool(module.main)
        except SystemExit as stop:
            return stop.code
        return 0

    return run


def make_study(folder: str, title: str = 'A study') -> None:
    study = Study(Path('study.py'), title, {'a': 'the variant'}, 'a', (0,))
    write_record(Path(folder), study, 'python tools/run_study.py study.py --work-dir x')


def test_a_study_is_analyzed_again_and_beside_others(analyze):
    make_study('work_dirs/clean')
    make_study('work_dirs/failures', 'Another')
    assert analyze('work_dirs/clean') == 0
    assert Path('work_dirs/clean/report/clean/study.json').is_file()
    for _ in range(2):
        assert analyze('work_dirs/clean', 'work_dirs/failures', '--out-dir', 'docs') == 0
    page = Path('docs/README.md').read_text()
    assert '## A study\n' in page and '## Another\n' in page


def test_tables_do_not_come_among_the_runs(analyze, capsys):
    make_study('work_dirs/clean')
    assert analyze('work_dirs/clean', '--out-dir', 'work_dirs') == 2
    assert "the tables of 'work_dirs/clean' would be written among its runs" in (
        capsys.readouterr().err
    )
    assert [path.name for path in Path('work_dirs/clean').iterdir()] == ['record.json']


def test_work_directories_beside_the_page_are_no_studies_of_it(analyze):
    make_study('work_dirs/clean')
    make_study('work_dirs/failures', 'Another')
    make_study('elsewhere/third', 'A third')
    assert analyze('elsewhere/third', '--out-dir', 'work_dirs') == 0
    assert 'Another' not in Path('work_dirs/README.md').read_text()


def test_two_studies_of_one_name_are_told_apart_by_their_user(analyze, capsys):
    make_study('a/study', 'The first')
    make_study('b/study', 'The second')
    assert analyze('a/study', 'b/study', '--out-dir', 'docs') == 2
    assert "several studies are called 'study'" in capsys.readouterr().err
    assert analyze('a/study', '--out-dir', 'docs') == 0
    assert analyze('b/study', '--out-dir', 'docs') == 2
    said = capsys.readouterr().err
    assert "'docs/study' has the tables of another study, 'The first', not 'The second'" in said
    assert load_results(Path('docs/study')).title == 'The first'
    Path('docs/study/study.json').write_text('{')  # damaged: made again
    assert analyze('b/study', '--out-dir', 'docs') == 0


def test_folder_of_a_study_by_an_earlier_version_is_told_from_one_that_is_no_study(
    analyze, capsys
):
    record = dict(name='old', title='Old', variants={'a': 'A'}, reference='a', seeds=[0])
    record.update(start='start.pth', command='python tools/run_study.py configs/studies/old.py')
    Path('old').mkdir()
    Path('old/study.json').write_text(json.dumps(record))
    assert analyze('old') == 2
    said = capsys.readouterr().err
    assert "'old/study.json' is of a study made by an earlier version" in said
    assert 'remedy: analyze it with that version, or make the study anew' in said


def test_folder_that_is_no_study_is_named(analyze, capsys):
    assert analyze('nowhere') == 2
    assert "'nowhere' has no readable results of a study" in capsys.readouterr().err
