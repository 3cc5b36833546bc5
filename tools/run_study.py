"""Train and test every variant of a study with every seed; go on where an earlier call stopped.

A study is a small config: a training config, weights to start from, variants as overrides, seeds;
see configs/studies/learnable_scale.py. Each run is one of tools/train.py and one of tools/test.py
in WORK_DIR/<variant>/seed_<n>/. What is finished is not run again, what was cut off resumes, and a
run whose settings have changed is made anew beside the old one. tools/analyze_study.py reads the
results, of an unfinished study too.

Examples:
    python tools/run_study.py configs/studies/learnable_scale.py --work-dir work_dirs/scale
    python tools/run_study.py STUDY --work-dir DIR --jobs 4 --gpus 0 1 2 3
    python tools/run_study.py STUDY --work-dir DIR --launcher pytorch --gpus 0 1 2 3 4 5 6 7
    python tools/run_study.py STUDY --work-dir DIR --launcher slurm --processes 8 \
        --srun-args='--gres=gpu:8 --partition=gpu'
    python tools/run_study.py STUDY --work-dir DIR --cfg-options load_from=ckpts/cmt.pth seeds=0,1
"""

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path

from mmengine.config import DictAction
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cmt_bias.runs.preflight import run_tool
from cmt_bias.study.launch_command import LAUNCHERS, JobSlot, Launch, plan_launch
from cmt_bias.study.run_queue import QueueStatus, run_all
from cmt_bias.study.study_config import Study, read_study
from cmt_bias.study.study_folder import (
    check_variants,
    lock_study,
    plan_runs,
    plan_start,
    starting_checkpoint,
    write_record,
)
from cmt_bias.study.study_run import RunPlan, StudyRun
from cmt_bias.study.training_progress import duration_text

TOOLS = Path(__file__).resolve().parent
HEARTBEAT_SECONDS = 300.0
FAILED, INTERRUPTED = 1, 130


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('study', help='study file')
    parser.add_argument('--work-dir', required=True, type=Path, help='folder of all runs')
    parser.add_argument('--jobs', type=int, default=1, help='runs at the same time (default: 1)')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='job launcher')
    parser.add_argument(
        '--gpus', nargs='+', default=[], metavar='ID', help='CUDA devices, shared among the jobs'
    )
    parser.add_argument(
        '--processes', type=int, help='processes of each run (default: one for each of its GPUs)'
    )
    parser.add_argument('--srun-args', default='', help='arguments for srun, in one string')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the study: seeds=0,1 load_from=FILE base_config=FILE',
    )
    return parser.parse_args()


class ConsoleObserver:
    """Shows how the runs go: bars in a terminal, lines otherwise.

    Args:
        console: Where to.
        num_runs: Runs in all.
    """

    def __init__(self, console: Console, num_runs: int) -> None:
        self._console = console
        # Drawn by hand: a thread of its own would be in the way of starting processes.
        self._bars = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            TextColumn('{task.percentage:>3.0f} %  {task.fields[note]}'),
            console=console,
            auto_refresh=False,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task('all runs', total=num_runs, note='')
        self._tasks: dict[str, TaskID] = {}
        self._next_line = time.monotonic() + HEARTBEAT_SECONDS

    def __enter__(self) -> 'ConsoleObserver':
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def started(self, run: StudyRun, status: QueueStatus) -> None:
        """Say which run begins."""
        label = run.plan.label
        self._tasks[label] = self._bars.add_task(label, total=1.0, note='')
        self._say(f'{label}: started; {run.plan.folder}')

    def ended(self, run: StudyRun, status: QueueStatus) -> None:
        """Say how it ended."""
        self._bars.remove_task(self._tasks.pop(run.plan.label))
        if run.failure:
            self._say(f'{run.plan.label}: FAILED: {run.failure}', style='red')
        else:
            self._say(f'{run.plan.label}: finished in {duration_text(run.seconds)}')
        self._say(f'  {summary_line(status)}')

    def waiting(self, status: QueueStatus) -> None:
        """Draw the bars; without a terminal, say now and then how far it is."""
        active = sum(run.fraction for run in status.active)
        note = left_text(status)
        self._bars.update(self._all, completed=status.num_ended + active, note=note)
        for run in status.active:
            self._bars.update(self._tasks[run.plan.label], completed=run.fraction)
        self._bars.refresh()
        if not self._console.is_terminal and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + HEARTBEAT_SECONDS
            shares = ', '.join(f'{run.plan.label} {run.fraction:.0%}' for run in status.active)
            self._say(f'  {shares}; {summary_line(status)}')

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def summary_line(status: QueueStatus) -> str:
    """How many runs are done, and the time left."""
    failed = f', {len(status.failed)} failed' if status.failed else ''
    done = len(status.kept) + len(status.done)
    return f'{done} of {status.total} runs done{failed}; {left_text(status)}'


def left_text(status: QueueStatus) -> str:
    """The estimate of the time left, in words."""
    seconds = status.seconds_left()
    return 'time left unknown yet' if seconds is None else f'about {duration_text(seconds)} left'


def run_plans(plans: list[RunPlan], launch: Launch, console: Console) -> QueueStatus:
    """Carry out plans and show how it goes."""

    def make_run(plan: RunPlan, slot: JobSlot) -> StudyRun:
        return StudyRun(plan, launch, slot, TOOLS)

    with ConsoleObserver(console, len(plans)) as observer:
        return run_all(plans, launch.slots, make_run, observer)


def run_study(study: Study, work_dir: Path, launch: Launch, console: Console) -> int:
    """Make the starting weights if need be, then all runs; returns the exit status."""
    start = plan_start(study, work_dir, launch.num_processes)
    if start is not None and run_plans([start], launch, console).failed:
        console.print('without its starting weights the study cannot go on', style='red')
        return FAILED
    checkpoint = starting_checkpoint(study, work_dir)
    plans = plan_runs(study, work_dir, launch.num_processes, checkpoint)
    status = run_plans(plans, launch, console)
    if status.kept:
        console.print(f'{len(status.kept)} runs were finished before and kept')
    for label in status.failed:
        console.print(f'failed: {label}', style='red', markup=False)
    console.print(summary_line(status).partition(';')[0])
    console.print(f'next: python tools/analyze_study.py {work_dir}', soft_wrap=True)
    return FAILED if status.failed else 0


def main() -> None:
    """Read the study, then run it."""
    args = parse_args()
    # Being told to stop ends the runs too, and is said like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    study = read_study(args.study, args.cfg_options)
    check_variants(study)
    launch = plan_launch(args.launcher, args.jobs, args.gpus, args.processes, args.srun_args)
    lock = lock_study(args.work_dir)
    write_record(args.work_dir, study, shlex.join(['python', *sys.argv]))
    try:
        status = run_study(study, args.work_dir, launch, console)
    except KeyboardInterrupt:
        console.print('\ninterrupted; the same command goes on from here')
        status = INTERRUPTED
    finally:
        lock.release()
    sys.exit(status)


if __name__ == '__main__':
    run_tool(main)
