"""One run of a study, as a job: its training, its test, and its test under sensor failures."""

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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from submitit.helpers import TorchDistributedEnvironment

from ..atomic_file import write_atomically
from ..checkpoints.latest_checkpoint import is_intact_checkpoint
from ..checkpoints.safe_loading import CheckpointError
from ..file_lock import FileLock
from ..runs.run_options import newest_checkpoint
from .study_config import keep_detections

STATE_FILE, CONFIG_FILE, LOCK_FILE = 'state.json', 'config.py', 'run.lock'
TRAIN_FOLDER, TEST_FOLDER, FAILURES_FOLDER = 'train', 'test', 'failures'
DETECTIONS = Path('detections') / 'pred_instances_3d' / 'results_nusc.json'
CPU_INFO = Path('/proc/cpuinfo')
LINES_OF_A_FAILURE = 15
SECONDS_TO_END = 20.0
POLL_SECONDS = 0.2


@dataclass
class RunState:
    """How far a run is.

    Attributes:
        key: Of the settings it was made with, see :func:`.study_config.run_key`.
        checkpoint: Weights after training; empty while it is not done.
        metrics: The metric dict of tools/test.py; empty while it is not done.
        failures_tested: Sensor failures that were tested, and the settings of these tests.
        seconds: Wall-clock time of each stage that ended.
        failure: Why it ended early; empty otherwise.
    """

    key: str
    checkpoint: str = ''
    metrics: dict[str, float] = field(default_factory=dict)
    failures_tested: Sequence[str] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    device: str = ''
    failure: str = ''


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

    Attributes:
        label: Names it to the reader, such as 'fixed, seed 0'.
        key: Digest of all that decides what it gives.
        tools: Folder of train.py, test.py and test_robustness.py.
        failures: Names of the sensor failures to test under.
        failure_options: Settings ``key=value`` of these tests alone.
        is_distributed: Whether the job has several processes, each of which is one of the tool's.
        runner: Process that must not end before the job does; None for a job of a cluster.
    """

    label: str
    folder: Path
    key: str
    tools: Path
    failures: tuple[str, ...] = ()
    failure_options: tuple[str, ...] = ()
    is_distributed: bool = False
    runner: int | None = None

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
        folder, state = self.run.folder, self.state
        config = str(folder / CONFIG_FILE)
        self.keep(failure='', device=describe_device())
        if not (state.checkpoint and is_intact_checkpoint(Path(state.checkpoint))):
            # --resume starts from load_from where there is no checkpoint yet.
            self._call('train', TRAIN_FOLDER, [config], '--resume')
            checkpoint = newest_checkpoint(Config.fromfile(config), str(folder / TRAIN_FOLDER))
            if checkpoint is None:
                raise _StageError('the training left no checkpoint')
            self.keep(checkpoint=checkpoint, metrics={}, failures_tested=())
        if not (state.metrics and (folder / DETECTIONS).is_file()):
            if self.lock is not None:  # what a killed test has left
                shutil.rmtree(folder / TEST_FOLDER, ignore_errors=True)
            self._call('test', TEST_FOLDER, [config, state.checkpoint])
            metrics = read_test_metrics(folder / TEST_FOLDER)
            if self.lock is not None and not (metrics and (folder / DETECTIONS).is_file()):
                lacking = f"detections, '{folder / DETECTIONS}'" if metrics else 'metrics'
                raise _StageError(f'the test left no {lacking}; log: {folder / "test.log"}')
            self.keep(metrics=metrics)
        failures, options = self.run.failures, self.run.failure_options
        if state.failures_tested != (*failures, *options):
            if failures:
                given = ['--failures', *failures]
                given += ['--cfg-options', *options] if options else []
                self._call('test_robustness', FAILURES_FOLDER, [config, state.checkpoint], *given)
            self.keep(failures_tested=(*failures, *options))

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
            end_process_group(process)
        seconds = self.state.seconds.get(tool, 0.0) + time.monotonic() - start
        self.keep(seconds={**self.state.seconds, tool: seconds})
        if status != 0:
            lines = log_file.read_text(errors='replace').splitlines()[-LINES_OF_A_FAILURE:]
            end = '\n'.join(lines)
            raise _StageError(f'{tool}.py ended with status {status}; log: {log_file}\n{end}')

    def _wait(self, process: subprocess.Popen) -> int:
        """The exit status; ends the process if the runner is gone, even by SIGKILL."""
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if self.run.runner is not None and not is_alive(self.run.runner):
                    raise SystemExit('the runner of the study is gone') from None


def end_process_group(process: subprocess.Popen) -> None:
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
    """The hardware of this process, in words."""
    if torch.cuda.is_available():
        return f'{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}'
    return f'CPU {_processor_name()}, {os.cpu_count()} cores'


def _processor_name() -> str:
    """Of the model where Linux says it, of its kind elsewhere."""
    with suppress(OSError):
        if found := re.search(r'^model name\s*:\s*(.+)$', CPU_INFO.read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()
