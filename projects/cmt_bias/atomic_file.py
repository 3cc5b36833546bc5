"""Write files so that a killed process leaves the old file or the new one, nothing in between."""

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mmengine.fileio import LocalBackend, register_backend

from .file_lock import take_lock

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PARTIAL_SUFFIX = '.cmt_bias.partial'  # nobody else's files end so


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file by way of a temporary one beside it, which then takes its place.

    The content is on the disk before the file gets its name, so that this also holds when the
    machine loses power. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.{os.getpid()}{_PARTIAL_SUFFIX}')
    try:
        with partial.open('wb') as file:
            take_lock(file.fileno(), wait=True)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    with suppress(OSError):  # its table of names, where the file system can do that
        os.fsync(directory)
    os.close(directory)


def save_figure(figure: 'Figure', path: str | os.PathLike[str]) -> Path:
    """Write a matplotlib figure as PNG to the path that it returns; see `write_atomically`."""
    content = io.BytesIO()
    figure.savefig(content, format='png')
    write_atomically(path, content.getvalue())
    return Path(path)


def remove_partial_files(directory: str | os.PathLike[str]) -> list[Path]:
    """Remove what killed processes left of `write_atomically` in a folder; returns what it was.

    Files that another process is writing, on whichever machine, stay.
    """
    removed = []
    for leftover in sorted(Path(directory).glob(f'.*{_PARTIAL_SUFFIX}')):
        if leftover.name.endswith(f'.{os.getpid()}{_PARTIAL_SUFFIX}'):
            continue  # a lock does not tell the threads of this process apart
        with suppress(OSError), leftover.open('r+b') as file:
            # Its writer locks it before there is anything in it.
            if take_lock(file.fileno()) and os.fstat(file.fileno()).st_size > 0:
                leftover.unlink()
                removed.append(leftover)
    return removed


@register_backend('atomic_local')
class AtomicLocalBackend(LocalBackend):
    """mmengine's local file backend, which always leaves the old file or the new one.

    Bytes are written atomically, and a file that is removed stays until the next one is written
    beside it: mmengine's checkpoint hook removes the outdated checkpoint first. Chosen with
    `backend_args=dict(backend='atomic_local')`.
    """

    _outdated: ClassVar[set[Path]] = set()  # of all instances, for the hook has one of its own

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file; see `write_atomically`."""
        write_atomically(filepath, obj)
        beside = {path for path in self._outdated if path.parent == Path(filepath).parent}
        for path in beside - {Path(filepath)}:
            path.unlink(missing_ok=True)
        self._outdated.difference_update(beside)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file as soon as the next one in its folder is complete."""
        self._outdated.add(Path(filepath))
