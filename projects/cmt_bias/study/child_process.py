"""Commands as child processes that end when their parent does."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
SECONDS_TO_END = 20.0
LOG_TAIL_BYTES = 65536


class ChildProcess:
    """A command with its output in a log file.

    On Linux it gets SIGTERM when the process that started it is gone, even by SIGKILL; torchrun
    and srun pass that on to theirs.

    Args:
        command: Program and arguments.
        log_file: What it prints is added here.
        environment: Variables to set beside those of this process.
        inherited: Open files that it is to keep.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_file: Path,
        environment: Mapping[str, str] | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        self.log_file = log_file
        self.started = time.monotonic()
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open('ab') as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONUNBUFFERED': '1', **(environment or {})},
                pass_fds=inherited,
                start_new_session=True,  # a group of its own, to be ended as a whole
                preexec_fn=_end_with_parent(),
            )

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self.started

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End it and all that it started, first kindly."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None and number == signal.SIGTERM:
                return
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return
            try:
                self._process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                continue


def _end_with_parent() -> Callable[[], None] | None:
    """What the child calls before its command begins."""
    if not sys.platform.startswith('linux'):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def set_signal() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it was gone before
            os._exit(1)

    return set_signal


def log_tail(log_file: Path) -> str:
    """The end of a log file; empty without one."""
    if not log_file.is_file():
        return ''
    with log_file.open('rb') as log:
        log.seek(max(0, log_file.stat().st_size - LOG_TAIL_BYTES))
        return log.read().decode(errors='replace')


def last_lines(log_file: Path, count: int) -> str:
    """The last lines of a log that are not empty."""
    lines = [line for line in log_tail(log_file).splitlines() if line.strip()]
    return '\n'.join(lines[-count:])
