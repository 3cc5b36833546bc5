"""Locks on files that end with the processes that hold them, however these end."""

import fcntl
import os
import time
from pathlib import Path


def take_lock(descriptor: int, wait: bool = False, with_children: bool = False) -> bool | None:
    """Lock a file, open for writing, until this process closes it or ends.

    `wait`: while another process has it. `with_children`: processes that inherit the open file
    hold the lock too; otherwise it is this process's own, which may take it again.

    Returns:
        Whether this process has the lock now; None where the file system knows no locks.
    """
    lock = fcntl.flock if with_children else fcntl.lockf
    try:
        lock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


class FileLock:
    """A lock that is a file, which is made if need be and stays; see :func:`take_lock`.

    Children inherit the `descriptor`, the open file, which is -1 while the lock is not held.
    """

    def __init__(self, path: str | Path, with_children: bool = False) -> None:
        self.path, self.with_children = Path(path), with_children
        self.descriptor = -1

    def acquire(self, wait_seconds: float = 0.0) -> bool:
        """Take the lock, waiting for it if need be; True where the file system knows none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + wait_seconds
        while take_lock(descriptor, with_children=self.with_children) is False:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return False
            time.sleep(0.2)
        self.descriptor = descriptor
        return True

    def release(self) -> None:
        """Let go of it; children that inherited it still hold it."""
        if self.descriptor != -1:
            os.close(self.descriptor)
            self.descriptor = -1
