"""Runs of a study as jobs of submitit, on this machine or on a Slurm cluster.

A run is a training, its test, and its test under sensor failures.
"""

import itertools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import submitit
import torch
from mmengine.config import Config
from submitit.helpers import TorchDistributedEnvironment

from ..atomic_file import write_atomically
from ..checkpoints.latest_checkpoint import is_intact_checkpoint
from ..checkpoints.safe_loading import CheckpointError
from ..file_lock import FileLock
from ..problem import Problem
from ..runs.preflight import ProblemsFound
from ..runs.run_options import newest_checkpoint
from .study_config import keep_detections

STATE_FILE, CONFIG_FILE, LOCK_FILE = 'state.json', 'config.py', 'run.lock'
TRAIN_FOLDER, TEST_FOLDER, FAILURES_FOLDER = 'train', 'test', 'failures'
DETECTIONS = Path('detections') / 'pred_instances_3d' / 'results_nusc.json'
CLUSTERS = ('local', 'slurm', 'debug')
CPU_INFO = Path('/proc/cpuinfo')
LINES_OF_A_FAILURE = 15
SECONDS_TO_END = 20.0
POLL_SECONDS = 0.5


@dataclass
class RunState:
    """How far a run is."""

    key: str  # of the settings it was made with: study_config.run_key
    checkpoint: str = ''  # weights after training; empty while it is not done
    metrics: dict[str, float] = field(default_factory=dict)  # of tools/test.py, empty before it
    failures_tested: Sequence[str] = ()  # sensor failures, and the settings of their tests
    seconds: dict[str, float] = field(default_factory=dict)  # wall-clock, of stages that ended
    device: str = ''
    failure: str = ''  # why it ended early; empty otherwise


def read_state(folder: Path) -> RunState | None:
    """The state in a run's folder; None where there is none, or a damaged one."""
    try:
        state = RunState(**json.loads((folder / STATE_FILE).read_text()))
        state.failures_tested = tuple(state.failures_tested)
    except (OSError, ValueError, TypeError):
        return None
    return state


@dataclass(frozen=True)
class StudyRun:
    """A run, which is called in the process of its job; what was done before is not done again.

    Each stage is a tool in a process of its own. A training that was cut off resumes.
    """

    label: str  # names it to the reader, such as 'fixed, seed 0'
    folder: Path
    key: str  # digest of all that decides what it gives
    tools: Path  # folder of train.py, test.py and test_robustness.py
    failures: tuple[str, ...] = ()  # names of the sensor failures to test under
    failure_options: tuple[str, ...] = ()  # settings key=value of these tests alone
    is_distributed: bool = False  # the job has several processes, each is one of the tool's
    runner: int | None = None  # process that must not end before the job does

    def state(self) -> RunState | None:
        """How far it is with these settings; None if it was not started with them."""
        state = read_state(self.folder)
        return state if state and state.key == self.key else None

    def is_finished(self) -> bool:
        """Whether it has been made to its end with these settings, and its results are there."""
        state, there = self.state(), (self.folder / DETECTIONS).is_file()
        tested = (*self.failures, *self.failure_options)
        return bool(there and state and state.metrics and state.failures_tested == tested)

    def prepare(self, cfg: Config) -> None:
        """Write the config; what other settings gave is kept under another name."""
        there = {path.name for path in self.folder.glob('*')}
        if there - {CONFIG_FILE, LOCK_FILE} and self.state() is None:
            names = (f'{self.folder.name}.outdated_{number}' for number in itertools.count(1))
            paths = map(self.folder.with_name, names)
            self.folder.rename(next(path for path in paths if not path.exists()))
        keep_detections(cfg, self.folder / DETECTIONS.parts[0])
        write_atomically(self.folder / CONFIG_FILE, cfg.pretty_text.encode())

    def __call__(self) -> str:
        """Do what is missing; returns why it failed, empty if it did not."""
        is_first = True
        if self.is_distributed:
            environment = TorchDistributedEnvironment()
            environment.export(set_cuda_visible_devices=False, overwrite=True)
            is_first = environment.rank == 0
        lock = FileLock(self.folder / LOCK_FILE, with_children=True)
        if is_first and not lock.acquire(wait_seconds=5.0):
            return f"another process works in '{self.folder}'; wait for it or end it"
        stages = _Stages(self, lock if is_first else None)
        try:
            stages.carry_out()
        except (_StageError, CheckpointError) as error:
            stages.keep(failure=str(error).splitlines()[0])
            return str(error)
        finally:
            lock.release()
        return ''


class _StageError(Exception):
    """A stage of a run has ended with an error; the first line says which."""


class _Stages:
    """Carries out the stages of a run and keeps its state, the latter in the first process."""

    def __init__(self, run: StudyRun, lock: FileLock | None) -> None:
        self.run, self.lock = run, lock
        self.state = run.state() or RunState(run.key)

    def keep(self, **changes: Any) -> None:
        """Change the state, on the disk too."""
        vars(self.state).update(changes)
        if self.lock is not None:
            text = json.dumps(asdict(self.state), indent=2)
            write_atomically(self.run.folder / STATE_FILE, text.encode())

    def carry_out(self) -> None:
        """Everything that is missing."""
        run, state = self.run, self.state
        config, detections = str(run.folder / CONFIG_FILE), run.folder / DETECTIONS
        self.keep(failure='', device=describe_device())
        if not (state.checkpoint and is_intact_checkpoint(Path(state.checkpoint))):
            # --resume starts from load_from where there is no checkpoint yet.
            self._call('train', TRAIN_FOLDER, [config], '--resume')
            checkpoint = newest_checkpoint(Config.fromfile(config), str(run.folder / TRAIN_FOLDER))
            if checkpoint is None:
                raise _StageError('the training left no checkpoint')
            self.keep(checkpoint=checkpoint, metrics={}, failures_tested=())
        if not (state.metrics and detections.is_file()):
            if self.lock is not None:  # what a killed test has left
                shutil.rmtree(run.folder / TEST_FOLDER, ignore_errors=True)
            self._call('test', TEST_FOLDER, [config, state.checkpoint])
            metrics = read_test_metrics(run.folder / TEST_FOLDER)
            if self.lock is not None and not (metrics and detections.is_file()):
                lacking = f"detections, '{detections}'" if metrics else 'metrics'
                raise _StageError(f'the test left no {lacking}; log: {run.folder / "test.log"}')
            self.keep(metrics=metrics)
        tested = (*run.failures, *run.failure_options)
        if state.failures_tested != tested:
            if run.failures:
                options = ['--cfg-options', *run.failure_options] if run.failure_options else []
                given = '--failures', *run.failures, *options
                self._call('test_robustness', FAILURES_FOLDER, [config, state.checkpoint], *given)
            self.keep(failures_tested=tested)

    def _call(self, tool: str, work_dir: str, files: Sequence[str], *options: str) -> None:
        """Run a tool; its output is added to ``<tool>.log``."""
        log_file = self.run.folder / f'{tool}.log'
        command = [sys.executable, str(self.run.tools / f'{tool}.py'), *files]
        command += ['--work-dir', str(self.run.folder / work_dir), *options]
        command += ['--launcher', 'pytorch'] if self.run.is_distributed else []
        start = time.monotonic()
        with log_file.open('ab') as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=() if self.lock is None else (self.lock.descriptor,),
                start_new_session=True,  # a group of its own, to be ended as a whole
            )
        try:
            status = self._wait(process)
        finally:
            _end_process_group(process)
        seconds = self.state.seconds.get(tool, 0.0) + time.monotonic() - start
        self.keep(seconds={**self.state.seconds, tool: seconds})
        if status != 0:
            lines = log_file.read_text(errors='replace').splitlines()[-LINES_OF_A_FAILURE:]
            what = f'{tool}.py ended with status {status}; log: {log_file}'
            raise _StageError('\n'.join([what, *lines]))

    def _wait(self, process: subprocess.Popen) -> int:
        """The exit status; ends the process if the runner is gone, even by SIGKILL."""
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if self.run.runner is not None and not is_alive(self.run.runner):
                    raise SystemExit('the runner of the study is gone') from None


def _end_process_group(process: subprocess.Popen) -> None:
    """End a process and all that it started, first kindly; nothing if it has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)


def is_alive(process: int) -> bool:
    """Whether a process of this machine and user goes on."""
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def read_test_metrics(test_dir: Path) -> dict[str, float]:
    """The metric dict of the newest test in a work directory of tools/test.py; empty without.

    mmengine writes ``<time>/<time>.json`` there.
    """
    for path in sorted(test_dir.glob('*/*.json'), reverse=True):  # their names are times
        if path.stem == path.parent.name:
            with suppress(OSError, ValueError):  # a damaged one
                metrics = json.loads(path.read_text())
                if isinstance(metrics, dict) and any(key.endswith('/NDS') for key in metrics):
                    return metrics
    return {}


def describe_device() -> str:
    """The hardware of this process: its GPUs, else its processor, by its model where known."""
    if torch.cuda.is_available():
        return f'{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}'
    name, found = platform.processor() or platform.machine(), None
    with suppress(OSError):  # no Linux
        found = re.search(r'^model name\s*:\s*(.+)$', CPU_INFO.read_text(), re.MULTILINE)
    return f'CPU {found[1].strip() if found else name}, {os.cpu_count()} cores'


@dataclass
class Progress:
    """Labels of the runs that were finished before, that are done now, and why others failed."""

    total: int
    kept: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        failed = f', {len(self.failed)} failed' if self.failed else ''
        return f'{len(self.kept) + len(self.done)} of {self.total} runs done{failed}'


def share_devices(jobs: int, gpus: int, named: Any = None) -> list[list[str]]:
    """CUDA devices of each of the ``jobs`` of this machine: ``gpus`` of its own.

    They are taken in turn from ``named`` (a number or an identifier such as a UUID, or several),
    else from CUDA_VISIBLE_DEVICES, else from all that the machine has; ProblemsFound if there are
    not enough of them.
    """
    source = '--submitit visible_gpus names'
    if named is None:
        named, source = os.environ.get('CUDA_VISIBLE_DEVICES'), 'CUDA_VISIBLE_DEVICES names'
    if named is None:
        named, source = range(torch.cuda.device_count()), 'this machine has'
    if isinstance(named, str):
        named = named.split(',')
    names = [str(name).strip() for name in (named if isinstance(named, Sequence) else [named])]
    # CUDA reads no further than to the first that is none; one named twice is one.
    usable = itertools.takewhile(lambda name: name not in ('', '-1'), names)
    pool = list(dict.fromkeys(usable))
    if jobs * gpus > len(pool):
        what = f'--jobs {jobs} with --gpus {gpus} each need {jobs * gpus} devices, but {source} '
        remedy = 'lower --jobs or --gpus (0: on the CPU), or let the study see more devices'
        raise ProblemsFound([Problem(f'{what}{len(pool)}', remedy)])
    return [pool[job * gpus : (job + 1) * gpus] for job in range(jobs)]


def make_executors(
    folder: Path,
    cluster: str,
    jobs: int = 1,
    processes: int = 1,
    gpus: int = 0,
    options: dict[str, Any] | None = None,
) -> list[submitit.Executor]:
    """An executor for each of the ``jobs`` that go on at the same time.

    Each has so many processes, on one machine, and GPUs, which on this machine are shared out by
    :func:`share_devices`. ``folder`` is where submitit keeps its files, ``cluster`` one of
    :data:`CLUSTERS`, ``options`` are parameters of submitit, such as ``slurm_partition``;
    ``visible_gpus`` are the devices of all jobs together.
    """
    parameters = dict(tasks_per_node=processes, gpus_per_node=gpus) | (options or {})
    executors: list[submitit.Executor] = []
    if cluster == 'local':
        parameters = {'timeout_min': 60 * 24 * 365, **parameters}  # none
        for share in share_devices(jobs, gpus, parameters.pop('visible_gpus', None)):
            executors.append(submitit.LocalExecutor(folder))
            # Beside update_parameters, which refuses UUIDs.
            executors[-1].parameters['visible_gpus'] = share
    else:
        executors += [submitit.AutoExecutor(folder, cluster=cluster) for _ in range(jobs)]
    for executor in executors:
        executor.update_parameters(**parameters)
    return executors


def carry_out(
    runs: Sequence[StudyRun], executors: Sequence[submitit.Executor], say: Callable[[str], None]
) -> Progress:
    """Carry out all runs that are not finished; a failing one does not stop the others.

    On an exception, KeyboardInterrupt too, the jobs are cancelled first. The runs are prepared;
    there is an executor for each that goes on at the same time; ``say`` is given a line where
    something happens.
    """
    progress = Progress(len(runs), kept=[run.label for run in runs if run.is_finished()])
    waiting = [run for run in runs if run.label not in progress.kept]
    free, active = list(executors), dict[submitit.Job, tuple[StudyRun, submitit.Executor]]()
    start = time.monotonic()
    try:
        while waiting or active:
            while waiting and free:
                run, executor = waiting.pop(0), free.pop(0)
                say(f'{run.label}: started; {run.folder}')
                active[executor.submit(run)] = run, executor
            for job in [job for job in active if job.done()]:
                run, executor = active.pop(job)
                free.append(executor)
                try:
                    failures = job.results()  # of each of its processes
                except Exception as error:
                    failures = [f'{type(error).__name__}: {error}']
                if failure := next(filter(None, failures), ''):
                    progress.failed[run.label] = failure
                    say(f'{run.label}: FAILED: {failure}')
                else:
                    progress.done.append(run.label)
                ended = len(progress.done) + len(progress.failed)
                minutes = (time.monotonic() - start) / 60 / ended * (len(waiting) + len(active))
                say(f'{progress}; about {minutes:.0f} min left')
            if active:
                time.sleep(POLL_SECONDS)
    except BaseException:
        for job in active:
            job.cancel()
        raise
    return progress
