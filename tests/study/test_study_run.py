"""Runs of a study with stand-ins for the tools that take no time: what is done when."""

import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from cmt_bias.file_lock import FileLock
from cmt_bias.study import study_run
from cmt_bias.study.study_run import (
    DETECTIONS,
    Progress,
    StudyRun,
    carry_out,
    describe_device,
    is_alive,
    make_executors,
    read_state,
    read_test_metrics,
)

TRAIN = """
import os, shutil, sys, time
from pathlib import Path
config = {}
exec(Path(sys.argv[1]).read_text(), config)
work_dir = Path(sys.argv[sys.argv.index('--work-dir') + 1])
work_dir.mkdir(parents=True, exist_ok=True)
with open(work_dir / 'calls', 'a') as calls:
    calls.write(' '.join(sys.argv[3:]) + chr(10))
(work_dir / f'rank_{os.environ.get("RANK", "none")}').touch()
while len(list(work_dir.glob('rank_*'))) < int(os.environ.get('WORLD_SIZE', 1)):
    time.sleep(0.05)  # ranks wait for each other
if config.get('fails'):
    print('the cause')
    raise SystemExit(3)
shutil.copy(Path(__file__).with_name('weights.pth'), work_dir / 'epoch_1.pth')
(work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
"""
TEST = """
import json, sys
from pathlib import Path
config = {}
exec(Path(sys.argv[1]).read_text(), config)
work_dir = Path(sys.argv[sys.argv.index('--work-dir') + 1])
if config.get('test_fails'):
    raise SystemExit(4)
results = Path(config['test_evaluator']['jsonfile_prefix']) / 'pred_instances_3d'
results.mkdir(parents=True, exist_ok=True)
(results / 'results_nusc.json').write_text('{}')
folder = work_dir / '20260101_000000'
folder.mkdir(parents=True, exist_ok=True)
(folder / '20260101_000000.json').write_text(json.dumps({'x_NuScenes/NDS': config['score']}))
"""
ROBUSTNESS = """
import sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index('--work-dir') + 1])
folder.mkdir(parents=True, exist_ok=True)
(folder / 'robustness.csv').write_text(' '.join(sys.argv[sys.argv.index('--failures') + 1:]))
with open(folder / 'calls', 'a') as calls:
    calls.write(sys.argv[2] + chr(10))
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / 'tools'
    folder.mkdir()
    for name, text in (('train', TRAIN), ('test', TEST), ('test_robustness', ROBUSTNESS)):
        (folder / f'{name}.py').write_text(text)
    torch.save({'state_dict': {'weight': torch.zeros(2)}}, folder / 'weights.pth')
    return folder


@pytest.fixture
def make_run(tmp_path: Path, tools: Path) -> Callable[..., StudyRun]:
    """A run, prepared."""

    def make(name: str, key: str = 'key', failures: tuple[str, ...] = (), **settings: object):
        run = StudyRun(name, tmp_path / name, key, tools, failures, runner=os.getpid())
        content = dict(score=0.5, test_evaluator=dict(type='NuScenesMetric'))
        run.prepare(Config({**content, **settings}))
        return run

    return make


def debug(tmp_path: Path, runs: list[StudyRun]) -> Progress:
    """Carry out runs in this process."""
    executors = make_executors(tmp_path / 'jobs', 'debug')
    return carry_out(runs, executors, lambda line: None)


def calls(run: StudyRun) -> list[str]:
    return (run.folder / 'train' / 'calls').read_text().splitlines()


def test_finished_runs_are_kept(make_run, tmp_path):
    progress = debug(tmp_path, [make_run('a'), make_run('b')])
    assert (progress.done, progress.kept, progress.failed) == (['a', 'b'], [], {})
    run = make_run('a')
    state = read_state(run.folder)
    assert state.metrics == {'x_NuScenes/NDS': 0.5}
    assert set(state.seconds) == {'train', 'test'}
    progress = debug(tmp_path, [run, make_run('b')])
    assert (progress.done, progress.kept) == ([], ['a', 'b'])
    assert str(progress) == '2 of 2 runs done'
    assert calls(run) == [f'{run.folder / "train"} --resume']


def test_failing_run_is_reported_with_its_log_and_the_rest_go_on(make_run, tmp_path):
    runs = [make_run('a', fails=True), make_run('b'), make_run('c', test_fails=True)]
    progress = debug(tmp_path, runs)
    assert progress.done == ['b']
    assert 'train.py ended with status 3' in progress.failed['a']
    assert progress.failed['a'].endswith('the cause')
    assert 'test.py ended with status 4' in progress.failed['c']
    assert read_state(runs[0].folder).failure.startswith('train.py ended')
    # Mended, it is tried again, and a test that failed does not train anew.
    progress = debug(tmp_path, [make_run('a'), make_run('b'), make_run('c')])
    assert (progress.done, progress.kept, progress.failed) == (['a', 'c'], ['b'], {})
    assert len(calls(runs[0])) == 2
    assert len(calls(runs[2])) == 1
    assert read_state(runs[0].folder).failure == ''


def test_failures_are_tested_after_the_rest_and_only_once(make_run, tmp_path):
    debug(tmp_path, [make_run('a')])
    more = make_run('a', failures=('lidar_*', 'night_3'))
    assert debug(tmp_path, [more]).done == ['a']
    assert (more.folder / 'failures' / 'robustness.csv').read_text() == 'lidar_* night_3'
    assert len(calls(more)) == 1
    assert debug(tmp_path, [more]).kept == ['a']
    smaller = dataclasses.replace(more, failure_options=('data_root=small',))
    assert debug(tmp_path, [smaller]).done == ['a']
    said = 'lidar_* night_3 --cfg-options data_root=small'
    assert (more.folder / 'failures' / 'robustness.csv').read_text() == said
    assert debug(tmp_path, [smaller]).kept == ['a']


def test_weights_that_were_trained_anew_are_tested_under_failures_anew(make_run, tmp_path):
    run = make_run('a', failures=('night_3',))
    debug(tmp_path, [run])
    (run.folder / 'train' / 'epoch_1.pth').unlink()
    (run.folder / DETECTIONS).unlink()
    assert debug(tmp_path, [run]).done == ['a']
    assert len(calls(run)) == 2
    assert len((run.folder / 'failures' / 'calls').read_text().splitlines()) == 2
    assert debug(tmp_path, [run]).kept == ['a']


def test_a_run_without_failures_is_not_tested_under_any_whatever_their_settings(
    make_run, tmp_path
):
    debug(tmp_path, [make_run('a', failures=('night_3',)), make_run('b')])
    runs = [
        make_run('a'),  # the study has no failures any more
        dataclasses.replace(make_run('b'), failure_options=('data_root=small',)),
    ]
    assert debug(tmp_path, runs).failed == {}
    assert len((tmp_path / 'a' / 'failures' / 'calls').read_text().splitlines()) == 1
    assert not (tmp_path / 'b' / 'failures').exists()
    assert debug(tmp_path, runs).kept == ['a', 'b']


def test_a_damaged_pointer_leads_to_the_newest_checkpoint_that_the_config_names(
    tools, make_run, tmp_path
):
    save = "work_dir / 'epoch_1.pth'"
    text = (tools / 'train.py').read_text().replace(save, "work_dir / 'weights_009.pth'")
    text += "(work_dir / 'last_checkpoint').unlink()\n"
    text += (
        "(work_dir / 'weights_010.pth').write_bytes((work_dir / 'weights_009.pth').read_bytes())"
    )
    (tools / 'train.py').write_text(text)
    hooks = dict(checkpoint=dict(filename_tmpl='weights_{:03d}.pth'))
    run = make_run('a', default_hooks=hooks)
    assert debug(tmp_path, [run]).failed == {}
    assert read_state(run.folder).checkpoint == str(run.folder / 'train' / 'weights_010.pth')


def test_run_with_other_settings_is_made_anew_beside_the_old_one(make_run, tmp_path):
    debug(tmp_path, [make_run('a')])
    changed = make_run('a', key='other')
    assert debug(tmp_path, [changed]).done == ['a']
    assert len(calls(changed)) == 1
    assert read_state(changed.folder).key == 'other'
    assert read_state(tmp_path / 'a.outdated_1').key == 'key'


def test_missing_detections_are_made_again_without_training(make_run, tmp_path):
    run = make_run('a')
    debug(tmp_path, [run])
    (run.folder / DETECTIONS).unlink()
    assert debug(tmp_path, [run]).done == ['a']
    assert len(calls(run)) == 1


@pytest.mark.parametrize(
    ('line', 'said'),
    [
        ("(results / 'results_nusc.json').write_text('{}')", 'the test left no detections, '),
        ("(folder / '20260101_000000.json').write_text(", 'the test left no metrics; log: '),
    ],
)
def test_a_run_whose_test_left_no_results_has_failed(line, said, tools, make_run, tmp_path):
    text = (tools / 'test.py').read_text()
    (tools / 'test.py').write_text(text.replace(line, line.replace('write_text', 'joinpath')))
    run = make_run('a')
    progress = debug(tmp_path, [run])
    assert progress.done == []
    assert progress.failed['a'].startswith(said)
    assert str(run.folder / 'test.log') in progress.failed['a']
    assert read_state(run.folder).metrics == {}
    (tools / 'test.py').write_text(text)
    assert debug(tmp_path, [run]).done == ['a']
    assert len(calls(run)) == 1


@pytest.mark.parametrize('content', ['{"key": ', '[]', '{"unknown": 1}', '\x00'])
def test_damaged_state_counts_as_none(make_run, tmp_path, content):
    run = make_run('a')
    debug(tmp_path, [run])
    (run.folder / 'state.json').write_text(content)
    assert read_state(run.folder) is None
    assert debug(tmp_path, [make_run('a')]).done == ['a']


@pytest.mark.parametrize('content', [b'{"x_NuScenes/NDS": ', b'[1]', b'3', b'\xff', b'{}'])
def test_metrics_are_those_of_the_newest_test_whose_file_is_not_damaged(tmp_path, content):
    for time_of_test, written in (('1', b'{"x_NuScenes/NDS": 0.5}'), ('2', content)):
        (tmp_path / time_of_test).mkdir()
        (tmp_path / time_of_test / f'{time_of_test}.json').write_bytes(written)
    assert read_test_metrics(tmp_path) == {'x_NuScenes/NDS': 0.5}


def test_run_that_another_process_works_on_is_left_to_it(make_run, tmp_path):
    run = make_run('a')
    lock = FileLock(run.folder / 'run.lock', with_children=True)
    assert lock.acquire()
    orphan = subprocess.Popen(['sleep', '60'], pass_fds=[lock.descriptor])
    lock.release()
    try:
        progress = debug(tmp_path, [run, make_run('b')])
        assert progress.done == ['b']
        assert 'another process works in' in progress.failed['a']
    finally:
        orphan.kill()
        orphan.wait()
    assert debug(tmp_path, [run]).done == ['a']


def test_jobs_run_side_by_side_in_processes_of_their_own(make_run, tmp_path):
    runs = [make_run('a'), make_run('b', fails=True), make_run('c')]
    executors = make_executors(tmp_path / 'jobs', 'local', jobs=2)
    lines: list[str] = []
    progress = carry_out(runs, executors, lines.append)
    assert sorted(progress.done) == ['a', 'c']
    assert 'the cause' in progress.failed['b']
    assert [line.partition(':')[0] for line in lines[:2]] == ['a', 'b']  # before either ended
    assert lines[-1].startswith('2 of 3 runs done, 1 failed')


def test_processes_of_a_run_are_ranks_of_one_training(make_run, tmp_path):
    run = make_run('a')
    distributed = StudyRun(**{**run.__dict__, 'is_distributed': True})
    executors = make_executors(tmp_path / 'jobs', 'local', processes=2)
    progress = carry_out([distributed], executors, lambda line: None)
    assert progress.failed == {}
    assert sorted(path.name for path in (run.folder / 'train').glob('rank_*')) == [
        'rank_0',
        'rank_1',
    ]
    assert calls(run)[0].endswith('--resume --launcher pytorch')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_tools_of_a_killed_runner_end(tools, make_run, tmp_path, number):
    """SIGKILL cannot be caught: the job itself has to notice."""
    (tools / 'train.py').write_text(
        'import os, sys, time\n'
        'open(os.path.dirname(sys.argv[1]) + "/pid", "w").write(str(os.getpid()))\n'
        'time.sleep(600)\n'
    )
    run = make_run('a')
    program = (
        'import os, signal, sys; from pathlib import Path\n'
        # A test run in the background has inherited that it is ignored.
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        'from cmt_bias.study.study_run import StudyRun, carry_out, make_executors\n'
        f'run = StudyRun("a", Path({str(run.folder)!r}), "key", Path({str(tools)!r}), '
        'runner=os.getpid())\n'
        f'carry_out([run], make_executors(Path({str(tmp_path / "jobs")!r}), "local"), print)\n'
    )
    runner = subprocess.Popen([sys.executable, '-c', program], start_new_session=True)
    pid = run.folder / 'pid'
    wait_until(lambda: pid.is_file() and pid.read_text() != '')
    runner.send_signal(number)
    runner.wait(timeout=60)
    wait_until(lambda: not is_alive(int(pid.read_text())))
    lock = FileLock(run.folder / 'run.lock', with_children=True)
    assert lock.acquire(wait_seconds=60)
    lock.release()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_parameters_of_the_user_replace_those_that_are_set_here(tmp_path):
    (executor,) = make_executors(tmp_path, 'local', options=dict(timeout_min=60))
    assert executor.parameters['timeout_min'] == 60


def test_state_on_the_disk_has_all_that_the_run_knows(make_run, tmp_path):
    run = make_run('a', failures=('x',))
    debug(tmp_path, [run])
    state = read_state(run.folder)
    assert json.loads((run.folder / 'state.json').read_text()) == {
        'key': 'key',
        'checkpoint': str(run.folder / 'train' / 'epoch_1.pth'),
        'metrics': {'x_NuScenes/NDS': 0.5},
        'failures_tested': ['x'],
        'seconds': state.seconds,
        'device': describe_device(),
        'failure': '',
    }
    assert state.failures_tested == ('x',)
    assert set(state.seconds) == {'train', 'test', 'test_robustness'}


@pytest.mark.parametrize(
    ('cpuinfo', 'name'),
    [
        ('processor\t: 0\nmodel name\t: AMD EPYC 7B13\n\nmodel name\t: other\n', 'AMD EPYC 7B13'),
        ('processor\t: 0\n', 'kind'),
        (None, 'kind'),
    ],
)
def test_a_processor_is_named_by_its_model_where_that_is_known(
    cpuinfo, name, tmp_path, monkeypatch
):
    monkeypatch.setattr(platform, 'processor', lambda: '')
    monkeypatch.setattr(platform, 'machine', lambda: 'kind')
    if cpuinfo is not None:
        (tmp_path / 'cpuinfo').write_text(cpuinfo)
    monkeypatch.setattr(study_run, 'CPU_INFO', tmp_path / 'cpuinfo')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert describe_device() == f'CPU {name}, {os.cpu_count()} cores'


def test_a_run_that_was_never_started_is_prepared_in_place(make_run, tmp_path):
    run = make_run('a')
    make_run('a', key='other', score=0.25)
    assert [path.name for path in tmp_path.glob('a*')] == ['a']
    assert Config.fromfile(run.folder / 'config.py').score == 0.25
