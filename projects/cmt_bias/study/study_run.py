"""One run of a study: its training and its test, one process after the other."""

import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from mmengine.config import Config

from ..checkpoints.latest_checkpoint import find_latest_intact_checkpoint, is_intact_checkpoint
from .child_process import ChildProcess, last_lines, log_tail
from .effective_config import keep_detections
from .launch_command import JobSlot, Launch
from .run_lock import FolderLock, processes_with_open_file
from .run_state import DETECTIONS, RunState, put_aside, read_state, write_state
from .test_metrics import read_test_metrics
from .training_progress import fraction_trained

TRAIN_SHARE = 0.9  # of a run's time, for the estimate of what is left
LINES_OF_A_FAILURE = 15
LOCK_FILE = 'run.lock'
TRAIN_FOLDER, TEST_FOLDER = 'train', 'test'


@dataclass(frozen=True)
class RunPlan:
    """What one run is to do.

    Attributes:
        label: Names it to the reader, such as 'fixed_2.5, seed 0'.
        folder: Where everything it makes goes.
        config: The effective config.
        key: Digest of all that decides what it gives.
        is_tested: Whether a test follows the training.
    """

    label: str
    folder: Path
    config: Config
    key: str
    is_tested: bool = True


def is_finished(plan: RunPlan) -> bool:
    """Whether a run with this key has been made to its end, and its results are there."""
    state = read_state(plan.folder)
    if state is None or state.key != plan.key:
        return False
    if not plan.is_tested:
        return is_intact_checkpoint(Path(state.checkpoint))
    return bool(state.metrics) and (plan.folder / DETECTIONS).is_file()


class StudyRun:
    """Carries out a plan, a step each time it is asked; what was done before is not done again.

    Args:
        plan: The plan.
        launch: How processes are started.
        slot: Where.
        tools: Folder of train.py and test.py.
        lock_wait: Seconds to wait for processes of an earlier runner to end.
    """

    def __init__(
        self, plan: RunPlan, launch: Launch, slot: JobSlot, tools: Path, lock_wait: float = 60.0
    ) -> None:
        self.plan = plan
        self.slot = slot
        self.failure = ''
        self._launch = launch
        self._tools = tools
        self._lock = FolderLock(plan.folder / LOCK_FILE)
        self._lock_wait = lock_wait
        self._stage = ''
        self._process: ChildProcess | None = None
        self._state = RunState(plan.key)

    def start(self) -> None:
        """Begin with what is missing; on failure :attr:`failure` says why."""
        if not self._take_lock():
            return
        former = read_state(self.plan.folder)
        if former is None or former.key != self.plan.key:
            self._make_room()
            former = RunState(self.plan.key)
        self._state = replace(former, failure='', device=describe_device(self.slot.devices))
        write_state(self.plan.folder, self._state)
        self._write_config()
        if self._state.checkpoint and is_intact_checkpoint(Path(self._state.checkpoint)):
            self._start_test()
        else:
            self._start_training()

    def step(self) -> bool:
        """Look after the process; tells whether the run has ended, well or not."""
        if self.failure or self._process is None:
            self._lock.release()
            return True
        status = self._process.poll()
        if status is None:
            return False
        self._state = self._state.with_time(self._stage, self._process.seconds)
        if status != 0:
            self._fail(f'{self._stage} ended with status {status}')
        elif self._stage == 'training':
            self._end_training()
        else:
            self._end_test()
        return self.step() if self.failure or self._process is None else False

    def stop(self) -> None:
        """End the process; the next start goes on from the last checkpoint."""
        if self._process is not None:
            self._process.stop()
        self._lock.release()

    @property
    def fraction(self) -> float:
        """The share of the run that is done, 0-1, as well as it can be told."""
        if self._stage != 'training':
            return TRAIN_SHARE if self._stage else 0.0
        train_cfg = self.plan.config.get('train_cfg') or {}
        trained = fraction_trained(log_tail(self._log('training')), train_cfg.get('max_epochs'))
        return TRAIN_SHARE * trained

    @property
    def seconds(self) -> float:
        """Time spent on the run, by earlier runners too."""
        running = self._process.seconds if self._process is not None else 0.0
        return sum(self._state.seconds.values()) + running

    def _take_lock(self) -> bool:
        """Take the run's lock, or fail: processes of an earlier runner may still be at work."""
        if self._lock.acquire(self._lock_wait):
            return True
        holders = ', '.join(map(str, processes_with_open_file(self._lock.path))) or 'unknown'
        self.failure = (
            f"processes of an earlier runner still work in '{self.plan.folder}' (process ids: "
            f'{holders}); wait for them or end them, then start the study again'
        )
        return False

    def _make_room(self) -> None:
        """Keep what other settings gave, under another name, and take the lock of a new folder."""
        if any(path.name != LOCK_FILE for path in self.plan.folder.iterdir()):
            self._lock.release()
            put_aside(self.plan.folder)
            self._lock.acquire()

    def _write_config(self) -> None:
        if self.plan.is_tested:
            keep_detections(self.plan.config, self.plan.folder / DETECTIONS.parts[0])
        partial = self.plan.folder / f'.config.{os.getpid()}.py'
        self.plan.config.dump(partial)
        os.replace(partial, self._config_file)

    @property
    def _config_file(self) -> Path:
        return self.plan.folder / 'config.py'

    def _log(self, stage: str) -> Path:
        return self.plan.folder / f'{stage}.log'

    def _start_training(self) -> None:
        # --resume starts from load_from where there is no checkpoint yet.
        folder = str(self.plan.folder / TRAIN_FOLDER)
        self._start('training', 'train.py', [str(self._config_file), '--work-dir', folder])

    def _start_test(self) -> None:
        if not self.plan.is_tested:
            self._process = None
            return
        folder = self.plan.folder / TEST_FOLDER
        shutil.rmtree(folder, ignore_errors=True)  # what a killed test has left
        arguments = [str(self._config_file), self._state.checkpoint, '--work-dir', str(folder)]
        self._start('test', 'test.py', arguments)

    def _start(self, stage: str, tool: str, arguments: Sequence[str]) -> None:
        resume = ['--resume'] if stage == 'training' else []
        command = self._launch.command(self.slot, str(self._tools / tool), [*arguments, *resume])
        self._stage = stage
        environment = self._launch.environment(self.slot)
        self._process = ChildProcess(
            command, self._log(stage), environment, inherited=(self._lock.descriptor,)
        )

    def _end_training(self) -> None:
        checkpoint = find_latest_intact_checkpoint(self.plan.folder / TRAIN_FOLDER)
        if checkpoint is None:
            self._fail('training left no checkpoint')
            return
        self._state = replace(self._state, checkpoint=checkpoint)
        write_state(self.plan.folder, self._state)
        self._start_test()

    def _end_test(self) -> None:
        metrics = read_test_metrics(self.plan.folder / TEST_FOLDER)
        if not metrics or not (self.plan.folder / DETECTIONS).is_file():
            self._fail('the test left no metrics or no detections')
            return
        self._state = replace(self._state, metrics=metrics)
        write_state(self.plan.folder, self._state)
        self._process = None

    def _fail(self, reason: str) -> None:
        log = self._log(self._stage)
        self.failure = f'{reason}; end of {log}:\n{last_lines(log, LINES_OF_A_FAILURE)}'
        self._state = replace(self._state, failure=f'{reason}; log: {log}')
        write_state(self.plan.folder, self._state)


def describe_device(devices: Sequence[str] = ()) -> str:
    """The hardware that a run gets, in words."""
    if torch.cuda.is_available():
        count = len(devices) or torch.cuda.device_count()
        return f'{count} x {torch.cuda.get_device_name(0)}'
    return f'CPU {_processor_name()}, {os.cpu_count()} cores'


def _processor_name() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    for line in cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ():
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()
