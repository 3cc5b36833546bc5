"""Options of tools/run_study.py that cannot be meant are refused before anything runs."""

import sys
from pathlib import Path

import pytest

from .tool_modules import load_tool


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (('--jobs', '0'), '--jobs: 0 is not possible: give a number above 0'),
        (('--processes', '-1'), '--processes: -1 is not possible: give a number above 0'),
        (('--seeds', '0', '1', '0'), '--seeds 0 1 0: two runs would have one folder'),
        (('--variants', 'b'), '--variants: the study has no b'),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, said, tmp_path, monkeypatch, capsys):
    module = load_tool('run_study')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.signal, 'signal', lambda *args: None)
    Path('study.py').write_text("variants = dict(a='')\nseeds = [0]")
    Path('a.py').touch()
    arguments = ['run_study.py', 'study.py', '--work-dir', 'work', *options]
    monkeypatch.setattr(sys, 'argv', arguments)
    with pytest.raises(SystemExit) as stop:
        module.run_tool(module.main)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not Path('work').exists()
