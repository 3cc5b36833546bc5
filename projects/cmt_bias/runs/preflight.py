"""Stop a command line tool before its run: every problem with its remedy, no stack trace."""

import os
import sys
from collections.abc import Callable, Sequence

from ..checkpoints.safe_loading import CheckpointError
from ..problem import Problem

EXIT_STATUS = 2
"""Exit status of a tool that was stopped by a problem in its input."""

RANK_VARIABLES = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
"""Where torchrun, Slurm and Open MPI tell a process its rank."""


class ProblemsFound(Exception):  # noqa: N818  (what it carries, not an error of the program)
    """Input that cannot be worked with.

    Attributes:
        problems: What is wrong, at least one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__('\n'.join(map(str, problems)))
        self.problems = tuple(problems)


def stop_on(problems: Sequence[Problem]) -> None:
    """Raise :class:`ProblemsFound` if there are any."""
    if problems:
        raise ProblemsFound(problems)


def is_main_process() -> bool:
    """Whether this is the process that looks for problems, before torch.distributed is set up.

    When it stops, the launcher stops the others.
    """
    return all(int(os.environ.get(name) or 0) == 0 for name in RANK_VARIABLES)


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool's main function; problems in its input end it with status 2 and a message."""
    try:
        main()
    except (ProblemsFound, CheckpointError) as error:
        sys.stderr.write(f'\n{error}\n')
        sys.exit(EXIT_STATUS)
