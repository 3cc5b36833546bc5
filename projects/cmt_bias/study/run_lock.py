"""Locks that end with the processes that hold them, however these end."""

import fcntl
import os
import time
from pathlib import Path


class FolderLock:
    """A lock on a folder of runs or of one run.

    It is the operating system's lock on an open file: processes that inherit the open file hold it
    too, and when the last of them is gone, killed or not, it is free. So a training that survives
    its runner cannot be started a second time beside itself.

    Args:
        path: The lock's file; it stays where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The open file, for a child to inherit."""
        assert self._descriptor is not None, 'the lock is not held'
        return self._descriptor

    def acquire(self, wait_seconds: float = 0.0) -> bool:
        """Take the lock, waiting for it if need be; tells whether that worked."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    return False
                time.sleep(0.2)
            else:
                self._descriptor = descriptor
                return True

    def release(self) -> None:
        """Let go of it; children that inherited it still hold it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
