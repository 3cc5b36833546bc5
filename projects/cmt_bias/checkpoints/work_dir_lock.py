"""One training a folder: a lock that ends with the process that has it, however it dies."""

import os
import socket
from pathlib import Path

from ..atomic_file import take_lock
from .safe_loading import CheckpointError

LOCK_FILE = '.training.lock'


class FolderInUseError(CheckpointError):
    """Another process trains in a folder; the message names both."""


class WorkDirLock:
    """Keeps other processes from training in a folder.

    Args:
        folder: Where checkpoints or logs go; made if need be.

    Raises:
        FolderInUseError: If another process trains there.
    """

    def __init__(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / LOCK_FILE
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if take_lock(self._descriptor) is False:
            holder = os.read(self._descriptor, 200).decode(errors='replace').strip()
            self.release()
            raise FolderInUseError(
                f"'{folder}' is in use: {holder or 'another process'} trains there. Remedy: give "
                'this run a folder of its own (--work-dir), or end that process first'
            )
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f'process {os.getpid()} on {socket.gethostname()}'.encode())

    def release(self) -> None:
        """Let others train there."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
