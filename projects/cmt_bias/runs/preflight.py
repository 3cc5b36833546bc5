"""Stop a command line tool before its run: every problem with its remedy, no stack trace."""

import errno
import os
import sys
from collections.abc import Callable, Sequence

from mmengine.logging import MMLogger

from ..checkpoints.safe_loading import CheckpointError
from ..datasets.nuscenes_dataset import BadFrameError
from ..problem import Problem

EXIT_STATUS = 2
"""Exit status of a tool that was stopped by a problem in its input."""

_CANNOT_WRITE = {
    errno.EROFS: 'name a folder that can be written to, such as --work-dir /tmp/run',
    errno.EACCES: 'change its permissions, or name another folder, such as --work-dir /tmp/run',
    errno.ENOSPC: 'free some space, or name a folder on another disk with --work-dir',
}


class ProblemsFound(Exception):  # noqa: N818  (what it carries, not an error of the program)
    """Input that cannot be worked with: ``problems``, at least one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__('\n'.join(map(str, problems)))
        self.problems = tuple(problems)


def stop_on(problems: Sequence[Problem]) -> None:
    """Raise :class:`ProblemsFound` if there are errors among them; log the others."""
    errors = [problem for problem in problems if problem.severity == 'error']
    if errors:
        raise ProblemsFound(errors)
    for problem in problems:
        MMLogger.get_current_instance().warning(str(problem))


def is_main_process() -> bool:
    """Whether this is the process that looks for problems, before torch.distributed is set up.

    torchrun, Slurm or Open MPI tells its rank. When it stops, the launcher stops the others.
    """
    variables = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return all(int(os.environ.get(name) or 0) == 0 for name in variables)


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool's main function; problems in its input end it with status 2 and a message."""
    try:
        return main()
    except (ProblemsFound, CheckpointError, BadFrameError) as error:
        message = str(error)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        what = f"'{error.filename}': {error.strerror}"
        message = str(Problem(what, _CANNOT_WRITE[error.errno]))
    sys.stderr.write(f'\n{message}\n')
    sys.exit(EXIT_STATUS)
