"""Write files so that a killed process leaves the old file or the new one, nothing in between."""

import os
from contextlib import suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

_PARTIAL_SUFFIX = '.partial'


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file by way of a temporary one beside it, which then takes its place.

    The content is on the disk before the file gets its name, so that this also holds when the
    machine loses power. Missing folders are made.

    Args:
        path: File to write.
        content: Its new content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.{os.getpid()}{_PARTIAL_SUFFIX}')
    try:
        with partial.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Put a folder's table of names on the disk, where the file system can do that."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial_files(directory: str | os.PathLike[str]) -> list[Path]:
    """Remove what killed processes left of `write_atomically` in a folder; returns what it was.

    Call it only while nothing else writes there.
    """
    leftovers = sorted(Path(directory).glob(f'.*{_PARTIAL_SUFFIX}'))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return leftovers


@register_backend('atomic_local')
class AtomicLocalBackend(LocalBackend):
    """mmengine's local file backend with atomic writing of bytes.

    Chosen with `backend_args=dict(backend='atomic_local')`.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file; see `write_atomically`."""
        write_atomically(filepath, obj)
