"""Runs of a study with stand-ins for the tools that take no time: what is done when."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from cmt_bias.runs.preflight import ProblemsFound
from cmt_bias.study.launch_command import JobSlot, Launch, plan_launch
from cmt_bias.study.run_lock import FolderLock
from cmt_bias.study.run_queue import QueueStatus, run_all
from cmt_bias.study.run_state import DETECTIONS, RunState, read_state
from cmt_bias.study.study_folder import lock_study
from cmt_bias.study.study_run import RunPlan, StudyRun
from cmt_bias.study.training_progress import duration_text, fraction_trained

TRAIN = """
import sys, zipfile
from pathlib import Path
config = {}
exec(Path(sys.argv[1]).read_text(), config)
work_dir = Path(sys.argv[sys.argv.index('--work-dir') + 1])
work_dir.mkdir(parents=True, exist_ok=True)
with open(work_dir / 'calls', 'a') as calls:
    calls.write(' '.join(sys.argv[3:]) + chr(10))
if config.get('fails'):
    print('the cause')
    raise SystemExit(3)
with zipfile.ZipFile(work_dir / 'epoch_1.pth', 'w') as archive:
    archive.writestr('archive/data.pkl', 'weights')
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
folder.mkdir(parents=True)
(folder / '20260101_000000.json').write_text(json.dumps({'x_NuScenes/NDS': config['score']}))
"""


class Silent:
    """Watches nothing; counts how many runs were at work together."""

    most = 0

    def started(self, run: StudyRun, status: QueueStatus) -> None:
        self.most = max(self.most, len(status.active))

    def ended(self, run: StudyRun, status: QueueStatus) -> None:
        pass

    def waiting(self, status: QueueStatus) -> None:
        pass


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / 'tools'
    folder.mkdir()
    (folder / 'train.py').write_text(TRAIN)
    (folder / 'test.py').write_text(TEST)
    return folder


@pytest.fixture
def run(tools: Path) -> Callable[..., QueueStatus]:
    """Carries out plans."""

    def carry_out(plans: list[RunPlan], jobs: int = 1, observer: Silent | None = None):
        launch = plan_launch('none', jobs)
        return run_all(
            plans,
            launch.slots,
            lambda plan, slot: StudyRun(plan, launch, slot, tools, lock_wait=0.3),
            observer or Silent(),
            poll_seconds=0.01,
        )

    return carry_out


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., RunPlan]:
    def make(name: str, key: str = 'key', **settings: object) -> RunPlan:
        content = dict(score=0.5, test_evaluator=dict(type='NuScenesMetric'), **settings)
        return RunPlan(name, tmp_path / name, Config(content), key)

    return make


def calls(plan: RunPlan) -> list[str]:
    return (plan.folder / 'train' / 'calls').read_text().splitlines()


def test_finished_runs_are_kept(run, plan):
    status = run([plan('a'), plan('b')])
    assert (status.done, status.kept, status.failed) == (['a', 'b'], [], {})
    state = read_state(plan('a').folder)
    assert state.metrics == {'x_NuScenes/NDS': 0.5}
    assert set(state.seconds) == {'training', 'test'}
    status = run([plan('a'), plan('b')])
    assert (status.done, status.kept) == ([], ['a', 'b'])
    assert calls(plan('a')) == [f'{plan("a").folder / "train"} --resume']


def test_failing_run_is_reported_with_its_log_and_the_rest_go_on(run, plan):
    status = run([plan('a', fails=True), plan('b'), plan('c', test_fails=True)])
    assert status.done == ['b']
    assert 'training ended with status 3' in status.failed['a']
    assert status.failed['a'].endswith('the cause')
    assert 'test ended with status 4' in status.failed['c']
    # Mended, it is tried again, and a test that failed does not train anew.
    status = run([plan('a'), plan('b'), plan('c')])
    assert (status.done, status.kept, status.failed) == (['a', 'c'], ['b'], {})
    assert len(calls(plan('a'))) == 2
    assert len(calls(plan('c'))) == 1
    assert read_state(plan('a').folder).failure == ''


def test_run_with_other_settings_is_made_anew_beside_the_old_one(run, plan, tmp_path):
    run([plan('a')])
    changed = plan('a', key='other')
    assert run([changed]).done == ['a']
    assert len(calls(changed)) == 1
    assert read_state(changed.folder).key == 'other'
    assert read_state(tmp_path / 'a.outdated_1').key == 'key'


def test_missing_detections_are_made_again_without_training(run, plan):
    run([plan('a')])
    (plan('a').folder / DETECTIONS).unlink()
    assert run([plan('a')]).done == ['a']
    assert len(calls(plan('a'))) == 1


def test_damaged_state_counts_as_none(run, plan):
    run([plan('a')])
    (plan('a').folder / 'state.json').write_text('{"key": ')
    assert read_state(plan('a').folder) is None
    assert run([plan('a')]).done == ['a']


def test_jobs_run_side_by_side(run, plan, tools):
    slow = 'import time\ntime.sleep(0.3)\n' + TRAIN
    (tools / 'train.py').write_text(slow)
    observer = Silent()
    plans = [plan(name) for name in 'abcd']
    status = run(plans, jobs=2, observer=observer)
    assert sorted(status.done) == ['a', 'b', 'c', 'd']
    assert observer.most == 2


def test_run_that_an_orphan_still_works_on_is_left_to_it(run, plan):
    folder = plan('a').folder
    lock = FolderLock(folder / 'run.lock')
    assert lock.acquire()
    orphan = subprocess.Popen(['sleep', '60'], pass_fds=[lock.descriptor])
    lock.release()
    try:
        status = run([plan('a'), plan('b')])
        assert status.done == ['b']
        assert f'(process ids: {orphan.pid})' in status.failed['a']
    finally:
        orphan.kill()
        orphan.wait()
    assert run([plan('a')]).done == ['a']


def test_second_runner_is_kept_out(tmp_path):
    lock = lock_study(tmp_path)
    with pytest.raises(ProblemsFound, match=r'another tools/run_study\.py works in'):
        lock_study(tmp_path)
    lock.release()
    lock_study(tmp_path).release()


def test_command_of_a_killed_runner_ends(tmp_path):
    """SIGKILL cannot be caught: the kernel has to tell the child."""
    runner = (
        'import sys, time; sys.path.insert(0, sys.argv[1]);'
        'import importlib.util as u;'
        'spec = u.spec_from_file_location("child_process", sys.argv[2]);'
        'm = u.module_from_spec(spec); spec.loader.exec_module(m);'
        'from pathlib import Path;'
        'child = m.ChildProcess(["sleep", "600"], Path(sys.argv[3]));'
        'print(child._process.pid, flush=True); time.sleep(600)'
    )
    source = Path(__file__).parents[2] / 'projects' / 'cmt_bias' / 'study' / 'child_process.py'
    process = subprocess.Popen(
        [sys.executable, '-c', runner, str(tmp_path), str(source), str(tmp_path / 'log')],
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while _is_alive(child):
        assert time.monotonic() < deadline, 'the child has outlived its parent'
        time.sleep(0.02)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f'/proc/{process}/stat').read_text().split()[2] != 'Z'
    except OSError:
        return False


def test_gpus_are_shared_among_jobs():
    launch = plan_launch('pytorch', 2, ['0', '1', '2', '3'])
    assert launch.num_processes == 2
    assert [launch.environment(slot) for slot in launch.slots] == [
        {'CUDA_VISIBLE_DEVICES': '0,1'},
        {'CUDA_VISIBLE_DEVICES': '2,3'},
    ]
    command = launch.command(launch.slots[0], 'train.py', ['config.py'])
    assert command[1:] == [
        *('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2'),
        *('train.py', 'config.py', '--launcher', 'pytorch'),
    ]


def test_slurm_jobs_have_ports_of_their_own():
    launch = plan_launch('slurm', 2, num_processes=8, srun_args='--gres=gpu:8 -p "a b"')
    command = launch.command(launch.slots[1], 'train.py', ['config.py'])
    assert command[:5] == ['srun', '--ntasks=8', '--kill-on-bad-exit=1', '--gres=gpu:8', '-p']
    assert command[5] == 'a b'
    assert command[-2:] == ['--launcher', 'slurm']
    ports = {launch.environment(slot)['MASTER_PORT'] for slot in launch.slots}
    assert len(ports) == 2


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('none', 0), 'at least one run at a time'),
        (('none', 2, ['0', '1', '2']), '3 devices, which 2 jobs cannot share evenly'),
        (('none', 1, ['0', '1']), '2 processes or GPUs a run need a launcher'),
        (('slurm', 1, ['0']), 'Slurm gives the devices'),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(arguments, said):
    with pytest.raises(ProblemsFound, match=said):
        plan_launch(*arguments)


def test_time_left_is_that_of_the_runs_left(plan, tools):
    status = QueueStatus(total=4, num_slots=2)
    assert status.seconds_left() is None
    status.done, status.durations = ['a'], [100.0]
    assert status.seconds_left() == 3 * 100 / 2
    half = StudyRun(plan('b'), Launch(), JobSlot(0), tools)
    half._stage = 'test'  # nine tenths of a run
    status.active = [half]
    assert status.seconds_left() == pytest.approx(2.1 * 100 / 2)


def test_progress_is_read_from_the_log():
    log = 'Epoch(train)  [1][ 50/100]  lr: 1\nEpoch(train)  [2][ 50/100]  lr: 1\nSaving'
    assert fraction_trained(log, 4) == 1.5 / 4
    assert fraction_trained('Iter(train) [ 30/120]  lr: 1', None) == 0.25
    assert fraction_trained('', 4) == 0.0
    assert [duration_text(s) for s in (40, 150, 7500)] == ['40 s', '2 min', '2 h 05 min']


def test_state_survives_a_round_trip(tmp_path):
    state = RunState('key').with_time('training', 2.0).with_time('training', 3.0)
    (tmp_path / 'state.json').write_text(json.dumps(state.__dict__))
    assert read_state(tmp_path) == state
    assert state.seconds == {'training': 5.0}


def test_stand_in_for_a_checkpoint_is_one(tmp_path, run, plan):
    """The stand-in of a tool would prove nothing if its checkpoint were not taken for one."""
    run([plan('a')])
    assert zipfile.is_zipfile(read_state(plan('a').folder).checkpoint)
