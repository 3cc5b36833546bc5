"""Runs of a study as jobs of submitit: on this machine, or on a Slurm cluster."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import submitit
import torch

from ..problem import Problem
from ..runs.preflight import ProblemsFound
from .study_run import StudyRun

CLUSTERS = ('local', 'slurm', 'debug')
POLL_SECONDS = 0.5


@dataclass
class Progress:
    """Labels of the runs that were finished before, that are done now, and why others failed."""

    total: int
    kept: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        failed = f', {len(self.failed)} failed' if self.failed else ''
        return f'{len(self.kept) + len(self.done)} of {self.total} runs done{failed}'


def share_devices(jobs: int, gpus: int, named: Any = None) -> list[list[str]]:
    """CUDA devices of each of the ``jobs`` of this machine: ``gpus`` of its own.

    They are taken in turn from ``named`` (a number or an identifier such as a UUID, or several),
    else from CUDA_VISIBLE_DEVICES, else from all that the machine has.

    Raises:
        ProblemsFound: If there are not enough of them.
    """
    source = '--submitit visible_gpus names'
    if named is None:
        named, source = os.environ.get('CUDA_VISIBLE_DEVICES'), 'CUDA_VISIBLE_DEVICES names'
    if named is None:
        named, source = range(torch.cuda.device_count()), 'this machine has'
    if isinstance(named, str):
        named = named.split(',')
    names = [str(name).strip() for name in (named if isinstance(named, Sequence) else [named])]
    # CUDA reads no further than to the first that is none; one named twice is one.
    pool = list(dict.fromkeys(takewhile(lambda name: name not in ('', '-1'), names)))
    if jobs * gpus > len(pool):
        what = f'--jobs {jobs} with --gpus {gpus} each need {jobs * gpus} devices, but {source} '
        remedy = 'lower --jobs or --gpus (0: on the CPU), or let the study see more devices'
        raise ProblemsFound([Problem(f'{what}{len(pool)}', remedy)])
    return [pool[job * gpus : (job + 1) * gpus] for job in range(jobs)]


def make_executors(
    folder: Path,
    cluster: str,
    jobs: int = 1,
    processes: int = 1,
    gpus: int = 0,
    options: dict[str, Any] | None = None,
) -> list[submitit.Executor]:
    """An executor for each of the ``jobs`` that go on at the same time.

    Each has so many processes, on one machine, and GPUs, which on this machine are shared out by
    :func:`share_devices`. ``folder`` is where submitit keeps its files, ``cluster`` one of
    :data:`CLUSTERS`, ``options`` are parameters of submitit, such as
    ``dict(slurm_partition='gpu')``; ``visible_gpus`` are the devices of all jobs together.

    Raises:
        ProblemsFound: If this machine has not enough devices.
    """
    parameters = dict(tasks_per_node=processes, gpus_per_node=gpus) | (options or {})
    executors: list[submitit.Executor]
    if cluster == 'local':
        parameters = {'timeout_min': 60 * 24 * 365, **parameters}  # none
        shares = share_devices(jobs, gpus, parameters.pop('visible_gpus', None))
        executors = [submitit.LocalExecutor(folder) for _ in shares]
        for executor, share in zip(executors, shares, strict=True):
            # Beside update_parameters, which refuses UUIDs.
            executor.parameters['visible_gpus'] = share
    else:
        executors = [submitit.AutoExecutor(folder, cluster=cluster) for _ in range(jobs)]
    for executor in executors:
        executor.update_parameters(**parameters)
    return executors


def carry_out(
    runs: Sequence[StudyRun], executors: Sequence[submitit.Executor], say: Callable[[str], None]
) -> Progress:
    """Carry out all runs that are not finished; a failing one does not stop the others.

    On an exception, KeyboardInterrupt too, the jobs are cancelled first. The runs are prepared;
    there is an executor for each that goes on at the same time; ``say`` is given a line where
    something happens.
    """
    progress = Progress(len(runs), kept=[run.label for run in runs if run.is_finished()])
    waiting = [run for run in runs if run.label not in progress.kept]
    free, active = list(executors), dict[submitit.Job, tuple[StudyRun, submitit.Executor]]()
    start = time.monotonic()
    try:
        while waiting or active:
            while waiting and free:
                run, executor = waiting.pop(0), free.pop(0)
                say(f'{run.label}: started; {run.folder}')
                active[executor.submit(run)] = run, executor
            for job in [job for job in active if job.done()]:
                run, executor = active.pop(job)
                free.append(executor)
                try:
                    failures = job.results()  # of each of its processes
                except Exception as error:
                    failures = [f'{type(error).__name__}: {error}']
                if failure := next(filter(None, failures), ''):
                    progress.failed[run.label] = failure
                    say(f'{run.label}: FAILED: {failure}')
                else:
                    progress.done.append(run.label)
                ended = len(progress.done) + len(progress.failed)
                minutes = (time.monotonic() - start) / 60 / ended * (len(waiting) + len(active))
                say(f'{progress}; about {minutes:.0f} min left')
            if active:
                time.sleep(POLL_SECONDS)
    except BaseException:
        for job in active:
            job.cancel()
        raise
    return progress
