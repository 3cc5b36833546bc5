"""Train and test every variant of a study with every seed; go on where an earlier call stopped.

A study is a folder of training configs, one for each variant, and a file that names them; see
configs/studies/learnable_scale/study.py. Each run trains, tests, and tests under sensor failures
in WORK_DIR/<variant>/seed_<n>/, as a job of submitit: on this machine, or on a Slurm cluster. What
is finished is not run again, what was cut off resumes, and a run whose settings have changed is
made anew beside the old one. tools/analyze_study.py reads the results, of an unfinished study too.

Examples:
    python tools/run_study.py configs/studies/learnable_scale/study.py --work-dir work_dirs/scale
    python tools/run_study.py STUDY --work-dir DIR --jobs 4 --gpus 1
    python tools/run_study.py STUDY --work-dir DIR --gpus 8
    CUDA_VISIBLE_DEVICES=4,5,6,7 python tools/run_study.py STUDY --work-dir DIR --jobs 2 --gpus 2
    python tools/run_study.py STUDY --work-dir DIR --cluster slurm --jobs 16 --gpus 8 \
        --submitit slurm_partition=gpu timeout_min=1440
    python tools/run_study.py STUDY --work-dir DIR --seeds 0 1 --variants fixed learned
"""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import DictAction

from cmt_bias.file_lock import FileLock
from cmt_bias.problem import Problem
from cmt_bias.runs.preflight import ProblemsFound, run_tool, stop_on
from cmt_bias.runs.run_options import positive
from cmt_bias.study.study_config import STUDY_KEYS, Study, read_study, run_config, run_key
from cmt_bias.study.study_results import run_folder, write_record
from cmt_bias.study.study_run import (
    CLUSTERS,
    StudyRun,
    carry_out,
    make_executors,
    share_devices,
)

TOOLS = Path(__file__).resolve().parent
FAILED, INTERRUPTED = 1, 130


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('study', type=Path, help='study file')
    parser.add_argument('--work-dir', required=True, type=Path, help='folder of all runs')
    parser.add_argument('--seeds', type=int, nargs='+', help='in place of those of the study')
    parser.add_argument('--variants', nargs='+', help='only these, and the reference')
    parser.add_argument('--cluster', choices=CLUSTERS, default='local', help='default: local')
    number = positive(int)
    parser.add_argument(
        '--jobs', type=number, default=1, help='runs at the same time (default: 1)'
    )
    parser.add_argument(
        '--gpus',
        type=int,
        help='of each run (default: one for each process where there are any, else 0)',
    )
    parser.add_argument(
        '--processes', type=number, help='of each run (default: one for each of its GPUs, or 1)'
    )
    parser.add_argument(
        '--submitit', nargs='+', action=DictAction, help='parameters of submitit, key=value'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='settings that override all configs'
    )
    args = parser.parse_args()
    if args.gpus is None:
        args.gpus = (args.processes or 1) if torch.cuda.is_available() else 0
    args.processes = args.processes or max(args.gpus, 1)
    return args


def check_numbers(args: argparse.Namespace) -> None:
    """Whether jobs, GPUs and processes go together.

    Raises:
        ProblemsFound: If GPUs would be missing, idle, or shared by processes.
    """
    jobs, gpus, processes = args.jobs, args.gpus, args.processes
    if gpus < 0:
        raise ProblemsFound([Problem(f'--gpus {gpus} is not possible', 'give 0 or more')])
    if gpus and processes != gpus:
        what = f'--gpus {gpus} with --processes {processes}: a process works with one GPU'
        remedy = 'leave --processes out, give as many of both, or --gpus 0 for the CPU'
        raise ProblemsFound([Problem(what, remedy)])
    if args.cluster == 'local':
        share_devices(jobs, gpus, (args.submitit or {}).get('visible_gpus'))


def check_settings(study: Path, options: Mapping[str, Any]) -> None:
    """Whether ``--cfg-options`` are settings of the runs, not of the study.

    Raises:
        ProblemsFound: If some are the study's, which no run would read.
    """
    problems = []
    for key in options:
        name = key.partition('.')[0]
        if name in STUDY_KEYS | {'base_config'}:  # the latter before variants had configs
            what = f'--cfg-options {key}: a setting of the study, not of its runs'
            remedy = f'give --{name}' if name in ('seeds', 'variants') else f"edit '{study}'"
            problems.append(Problem(what, remedy))
    stop_on(problems)


def chosen(study: Study, args: argparse.Namespace) -> Study:
    """The study with the seeds and variants of the command line."""
    unknown = [name for name in args.variants or () if name not in study.variants]
    if unknown:
        what = f'--variants: the study has no {", ".join(unknown)}'
        raise ProblemsFound([Problem(what, f'choose of {", ".join(study.variants)}')])
    seeds = tuple(args.seeds or study.seeds)
    if len(set(seeds)) < len(seeds):
        what = f'--seeds {" ".join(map(str, seeds))}: two runs would have one folder'
        raise ProblemsFound([Problem(what, 'give each seed once')])
    names = {study.reference, *(args.variants or study.variants)}
    variants = {name: title for name, title in study.variants.items() if name in names}
    questions = tuple(q for q in study.questions if {q.variant, q.against} <= set(variants))
    return replace(study, variants=variants, questions=questions, seeds=seeds)


def plan_runs(study: Study, args: argparse.Namespace) -> list[StudyRun]:
    """All runs, prepared: every variant of a seed before the next seed, so that few seeds compare.

    Raises:
        ProblemsFound: If a variant cannot be trained.
    """
    planned = []
    for seed in study.seeds:
        for variant in study.variants:
            cfg = run_config(study, variant, seed, args.cfg_options)
            run = StudyRun(
                label=f'{variant}, seed {seed}',
                folder=run_folder(args.work_dir, variant, seed).resolve(),
                key=run_key(cfg, args.processes),
                tools=TOOLS,
                failures=study.failures,
                failure_options=study.failure_options,
                is_distributed=args.processes > 1,
                runner=os.getpid() if args.cluster != 'slurm' else None,
            )
            planned.append((run, cfg))
    for run, cfg in planned:
        if not run.is_finished():
            run.prepare(cfg)
    return [run for run, _ in planned]


def main() -> None:
    """Read the study, then run it."""
    args = parse_args()
    # Being told to stop ends the runs too, and is said like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    check_numbers(args)
    check_settings(args.study, args.cfg_options or {})
    study = chosen(read_study(args.study), args)
    lock = FileLock(args.work_dir / 'study.lock', with_children=True)
    if not lock.acquire():
        what = f"another tools/run_study.py works in '{args.work_dir}'"
        raise ProblemsFound([Problem(what, 'wait for it, end it, or give another --work-dir')])
    try:
        runs = plan_runs(study, args)
        write_record(args.work_dir, study, shlex.join(['python', *sys.argv]))
        executors = make_executors(
            args.work_dir / 'jobs', args.cluster, args.jobs, args.processes, args.gpus,
            args.submitit,
        )  # fmt: skip
        progress = carry_out(runs, executors, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on from here')
        sys.exit(INTERRUPTED)
    finally:
        lock.release()
    if progress.kept:
        print(f'{len(progress.kept)} runs were finished before and kept')
    for label in progress.failed:
        print(f'failed: {label}')
    print(f'{progress}\nnext: python tools/analyze_study.py {args.work_dir}')
    sys.exit(FAILED if progress.failed else 0)


if __name__ == '__main__':
    run_tool(main)
