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
        (('--cfg-options', 'seeds=0,1'), '--cfg-options seeds: a setting of the study'),
        (('--cfg-options', 'seeds=0,1'), 'remedy: give --seeds'),
        (('--cfg-options', "failure_options.a='b'"), "remedy: edit 'study.py'"),
        (('--cfg-options', 'base_config=a.py'), '--cfg-options base_config: a setting of the'),
        (('--gpus', '-1'), '--gpus -1 is not possible'),
        (('--gpus', '8', '--processes', '1'), '--gpus 8 with --processes 1: a process works with'),
        (('--gpus', '1', '--processes', '2'), '--gpus 1 with --processes 2: a process works with'),
        (('--gpus', '2', '--jobs', '2'), 'need 4 devices, but CUDA_VISIBLE_DEVICES names 2'),
        (
            ('--gpus', '2', '--submitit', 'visible_gpus=4'),
            'need 2 devices, but --submitit visible_gpus names 1',
        ),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, said, tmp_path, monkeypatch, capsys):
    module = load_tool('run_study')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '6,7')
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


@pytest.mark.parametrize(
    ('options', 'processes'),
    [(('--gpus', '8'), 8), (('--gpus', '0'), 1), (('--gpus', '0', '--processes', '2'), 2)],
)
def test_a_run_has_a_process_for_each_of_its_gpus(options, processes, monkeypatch):
    module = load_tool('run_study')
    arguments = ['run_study.py', 'study.py', '--work-dir', 'work', '--cluster', 'slurm', *options]
    monkeypatch.setattr(sys, 'argv', arguments)
    args = module.parse_args()
    module.check_numbers(args)
    assert args.processes == processes
