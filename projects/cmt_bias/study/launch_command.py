"""How a tool is started: as one process, by torchrun, or by Slurm."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..problem import Problem
from ..runs.preflight import ProblemsFound

LAUNCHERS = ('none', 'pytorch', 'slurm')
FIRST_PORT = 29600  # of Slurm jobs that run side by side, each needs one of its own


@dataclass(frozen=True)
class JobSlot:
    """Place for one run at a time.

    Attributes:
        number: Of the slot.
        devices: CUDA devices that it may use; empty for what the environment says.
    """

    number: int
    devices: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the processes in this slot."""
        return {'CUDA_VISIBLE_DEVICES': ','.join(self.devices)} if self.devices else {}


@dataclass(frozen=True)
class Launch:
    """How the runs of a study are started.

    Attributes:
        launcher: One of :data:`LAUNCHERS`.
        slots: One for each run that goes on at the same time.
        num_processes: Processes of each run.
        srun_args: Arguments for srun.
    """

    launcher: str = 'none'
    slots: tuple[JobSlot, ...] = field(default=(JobSlot(0),))
    num_processes: int = 1
    srun_args: tuple[str, ...] = ()

    def command(self, slot: JobSlot, tool: str, arguments: Sequence[str]) -> list[str]:
        """The command that runs a tool in a slot."""
        if self.launcher == 'none':
            return [sys.executable, tool, *arguments]
        told = [*arguments, '--launcher', self.launcher]
        if self.launcher == 'pytorch':
            run = ['-m', 'torch.distributed.run', '--standalone']
            return [sys.executable, *run, f'--nproc_per_node={self.num_processes}', tool, *told]
        tasks = [f'--ntasks={self.num_processes}', '--kill-on-bad-exit=1']
        return ['srun', *tasks, *self.srun_args, sys.executable, '-u', tool, *told]

    def environment(self, slot: JobSlot) -> dict[str, str]:
        """Variables for the command of a slot."""
        port = {'MASTER_PORT': str(FIRST_PORT + slot.number)} if self.launcher == 'slurm' else {}
        return {**slot.environment, **port}


def plan_launch(
    launcher: str,
    jobs: int,
    gpus: Sequence[str] = (),
    num_processes: int | None = None,
    srun_args: str = '',
) -> Launch:
    """Share out the GPUs among the jobs.

    Args:
        launcher: One of :data:`LAUNCHERS`.
        jobs: Runs at the same time.
        gpus: CUDA devices; empty for what each process finds by itself.
        num_processes: Processes of each run; by default one for each of its GPUs.
        srun_args: Arguments for srun, as in a shell.

    Returns:
        The plan.

    Raises:
        ProblemsFound: If the numbers do not go together.
    """
    problems = []
    if jobs < 1:
        problems.append(Problem(f'--jobs {jobs}: at least one run at a time', '--jobs 1'))
    elif len(gpus) % jobs:
        what = f'--gpus names {len(gpus)} devices, which {jobs} jobs cannot share evenly'
        problems.append(Problem(what, 'name a multiple of --jobs'))
    if launcher == 'slurm' and gpus:
        what = '--gpus with --launcher slurm: Slurm gives the devices'
        problems.append(Problem(what, "--srun-args='--gres=gpu:8' instead"))
    if problems:
        raise ProblemsFound(problems)
    share = len(gpus) // jobs
    processes = num_processes or max(share, 1)
    if launcher == 'none' and processes > 1:
        what = f'{processes} processes or GPUs a run need a launcher'
        remedy = '--launcher pytorch, or as many --jobs as --gpus'
        raise ProblemsFound([Problem(what, remedy)])
    slots = tuple(JobSlot(i, tuple(gpus[i * share : (i + 1) * share])) for i in range(jobs))
    return Launch(launcher, slots, processes, tuple(shlex.split(srun_args)))
