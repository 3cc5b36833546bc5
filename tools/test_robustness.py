"""Test detectors under sensor failures with the official metric, and compare them.

    python tools/test_robustness.py CONFIG CHECKPOINT                   # all failures
    python tools/test_robustness.py CONFIG A.pth B.pth --names base bias
    python tools/test_robustness.py CONFIG A.pth OTHER_CONFIG.py:B.pth  # B has its own config
    python tools/test_robustness.py CONFIG A.pth --failures 'lidar_*' night_3 --severities 1 2 3

Every failure is one test as tools/test.py makes it, with the failure's transforms behind the
loading ones; 'clean' is exactly that test. Written to --work-dir (default:
work_dirs/robustness/<config>): robustness.csv, robustness.md
and robustness.png with NDS and mAP of each model and failure, their means over the failures, and
for models with a router its mean weights. The command run again goes on where it was stopped.

The failures (wildcards allowed), see cmt_bias/failures:
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import re
import time
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.dist import is_main_process as is_first_rank
from mmengine.logging import print_log
from mmengine.registry import RUNNERS

from cmt_bias.atomic_file import write_atomically
from cmt_bias.checkpoints.safe_loading import CheckpointError
from cmt_bias.failures import CLEAN, SEVERITIES, Failure, all_failures, find_failures
from cmt_bias.metrics.nuscenes_metric_table import parse_nuscenes_metrics
from cmt_bias.problem import Problem
from cmt_bias.robustness import report
from cmt_bias.robustness.cell import (
    CellResult,
    cell_config,
    identity_of,
    load_result,
    save_result,
)
from cmt_bias.robustness.watch_hook import FailureWatchHook
from cmt_bias.runs import run_options
from cmt_bias.runs.checkpoint_check import check_checkpoint_file, check_tested_weights
from cmt_bias.runs.data_check import check_config_data
from cmt_bias.runs.preflight import ProblemsFound, is_main_process, run_tool, stop_on

Results = dict[tuple[str, str], CellResult]


class TestedModel(NamedTuple):
    """One column of the tables, under its heading; ``cfg`` has the command line's options."""

    name: str
    config: str
    checkpoint: str
    cfg: Config

    @property
    def sensors(self) -> str:
        """The sensors that the model reads: 'LC', 'L' or 'C'."""
        return run_options.model_modality(self.cfg.model)


class Cell(NamedTuple):
    """A test that is to be made: a model under a failure.

    ``identity`` changes with everything that the result depends on, ``path`` is its file.
    """

    model: TestedModel
    failure: Failure
    cfg: Config
    identity: str
    path: Path

    def __str__(self) -> str:
        return f'{self.model.name} / {self.failure.name}'


def parse_args() -> argparse.Namespace:
    """The command line."""
    names = ', '.join(failure.name for failure in all_failures())
    parser = argparse.ArgumentParser(
        description=f'{__doc__}    {names}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        'checkpoints', nargs='+', help='checkpoint files; CONFIG.py:CHECKPOINT for another config'
    )
    parser.add_argument('--names', nargs='+', help='headings of the checkpoints in the tables')
    parser.add_argument('--failures', nargs='+', default=['*'], help='names; default: all')
    parser.add_argument(
        '--severities',
        type=int,
        nargs='+',
        choices=SEVERITIES,
        help='of the degradations; default: 2, or those that --failures names',
    )
    parser.add_argument('--seed', type=int, default=0, help="seed of the failures' random numbers")
    parser.add_argument(
        '--allow-missing-keys', action='store_true', help='as tools/test.py understands it'
    )
    args = run_options.parse_run_args(parser)
    args.work_dir = Path(args.work_dir or f'work_dirs/robustness/{Path(args.config).stem}')
    return args


def tested_models(args: argparse.Namespace) -> list[TestedModel]:
    """The models of the command line.

    Raises:
        ProblemsFound: If a file is missing, or the names do not tell the models apart.
    """
    parts = [re.fullmatch(r'(?:(.+\.py):)?(.+)', text) for text in args.checkpoints]
    pairs = [(part[1] or args.config, part[2]) for part in parts if part]
    names = args.names or default_names([checkpoint for _, checkpoint in pairs])
    if len(names) != len(pairs) or len(set(names)) != len(names):
        what = f'{len(pairs)} checkpoints, but the names {", ".join(names)}'
        raise ProblemsFound([Problem(what, 'give each checkpoint a name of its own by --names')])
    models = []
    for name, (config, checkpoint) in zip(names, pairs, strict=True):
        cfg = run_options.load_config(config, args.cfg_options, args.launcher)
        cfg.load_from = checkpoint
        cfg.resume = False
        models.append(TestedModel(name, config, checkpoint, cfg))
    return models


def default_names(checkpoints: Sequence[str]) -> list[str]:
    """The files' names, with their folders' names if those alone do not tell them apart."""
    stems = [Path(path).stem for path in checkpoints]
    if len(set(stems)) == len(stems):
        return stems
    return [f'{Path(path).absolute().parent.name}/{Path(path).stem}' for path in checkpoints]


def cell_of(model: TestedModel, failure: Failure, args: argparse.Namespace) -> Cell:
    """A cell of the table, ready to be tested."""
    cfg = cell_config(model.cfg, failure, args.seed)
    folder = re.sub(r'[^\w.+-]', '_', model.name)
    path = args.work_dir / 'cells' / folder / f'{failure.name}.json'
    identity = identity_of(cfg, model.checkpoint)
    cfg.work_dir = str(args.work_dir / 'runs' / folder / failure.name)
    # Several runners live in this process: each gets its own log and visualizer.
    cfg.experiment_name = f'{folder}_{failure.name}_{time.time_ns()}'
    if cfg.get('visualizer'):
        cfg.visualizer.name = cfg.experiment_name
    return Cell(model, failure, cfg, identity, path)


def run_cell(cell: Cell, allow_missing_keys: bool, clean: CellResult | None) -> CellResult:
    """Make one test, and watch it; ``clean`` is that without failure, if it has been made.

    Raises:
        ProblemsFound: If the checkpoint does not fit the model.
        ValueError: If there is no nuScenes metric, or the failure changed no sample.
    """
    run_options.use_cpu_processes(cell.cfg)
    runner = RUNNERS.build(cell.cfg)
    stop_on(check_tested_weights(runner.model, cell.model.checkpoint, allow_missing_keys))
    watch = FailureWatchHook(clean.query_weights if clean else {})
    runner.register_hook(watch)
    metrics = runner.test()
    watched = watch.gathered()
    scores = next(iter(parse_nuscenes_metrics(metrics).values()), None)
    if is_first_rank() and scores is None:
        raise ValueError(
            'the test gave no nuScenes metric; set a NuScenesMetric in test_evaluator'
        )
    num_changed = sum(seen.changed is True for seen in watched.values())
    if cell.failure.transforms and num_changed == 0:
        raise ValueError(
            f'{cell.failure.name} changed no input of {len(watched)} samples: its result would be '
            'that of the clean test'
        )
    is_clean = cell.failure.name == CLEAN
    weights = {name: seen.query_weights for name, seen in watched.items() if is_clean}
    return CellResult(
        identity=cell.identity,
        nds=scores.nds if scores else float('nan'),
        mean_ap=scores.mean_ap if scores else float('nan'),
        metrics={key: float(value) for key, value in metrics.items() if isinstance(value, Real)},
        num_samples=len(watched),
        num_changed=num_changed,
        weights={name: seen.weights for name, seen in watched.items() if seen.weights},
        falls={name: seen.falls for name, seen in watched.items() if seen.falls},
        camera_attention=np.mean([s.camera_attention for s in watched.values()], axis=0).tolist(),
        query_weights={name: found for name, found in weights.items() if found is not None},
    )


def run_cells(
    models: Sequence[TestedModel], failures: Sequence[Failure], args: argparse.Namespace
) -> tuple[Results, list[Problem]]:
    """Make the tests that are not there yet; the results, and the tests that failed."""
    results: Results = {}
    pending = []  # decided before the first test, so that all processes of a launch agree
    for model, failure in itertools.product(models, failures):
        if not failure.applies_to(model.sensors):
            continue
        cell, is_clean = cell_of(model, failure, args), failure.name == CLEAN
        earlier = load_result(cell.path, cell.identity, with_query_weights=is_clean)
        if earlier is None:
            pending.append(cell)
        else:
            results[model.name, failure.name] = earlier
    if results and is_first_rank():
        print(f'{len(results)} tests were finished earlier, {len(pending)} are to be made')
    problems = []
    start = time.monotonic()
    for done, cell in enumerate(pending, 1):
        gc.collect()  # a runner is in reference cycles, and its loader's workers live as long
        name = cell.model.name
        try:
            result = run_cell(cell, args.allow_missing_keys, results.get((name, CLEAN)))
        except (ProblemsFound, CheckpointError):
            raise
        except Exception as error:  # the rest go on
            print_log(f'{cell} failed', 'current', logging.ERROR)
            logging.getLogger(__name__).exception(cell)
            remedy = 'mend the cause and give the same command again: it makes these tests alone'
            problems.append(Problem(f'{cell}: {type(error).__name__}: {error}', remedy))
            continue
        results[name, cell.failure.name] = result
        if is_first_rank():
            save_result(cell.path, result)
            left = (time.monotonic() - start) / done * (len(pending) - done)
            print(
                f'{done}/{len(pending)} {cell}: NDS {result.nds:.4f} '
                f'mAP {result.mean_ap:.4f}, about {left / 60:.0f} min left'
            )
    return results, problems


def write_report(
    models: Sequence[TestedModel], failures: Sequence[Failure], results: Results, work_dir: Path
) -> None:
    """Write the CSV, the plot and the Markdown file, and show the scores."""
    table = report.long_table({model.name: model.sensors for model in models}, failures, results)
    write_atomically(work_dir / 'robustness.csv', table.to_csv(index=False).encode())
    report.save_robustness_plot(work_dir / 'robustness.png', table)
    sources = {model.name: f'`{model.config}`, `{model.checkpoint}`' for model in models}
    text = report.markdown_report(table, failures, sources, 'robustness.png')
    write_atomically(work_dir / 'robustness.md', text.encode())
    for score in report.SCORES:
        print(f'\n{report.score_table(table, score).to_markdown(disable_numparse=True)}')
    print(f'report: {work_dir / "robustness.md"}')


def main() -> None:
    """Check, test what is left, and report."""
    args = parse_args()
    try:
        failures = find_failures(args.failures, args.severities or (2,))
    except ValueError as error:
        raise ProblemsFound([Problem(f'--failures: {error}', 'choose among them')]) from error
    models = tested_models(args)
    if is_main_process():
        for model in models:
            stop_on(check_checkpoint_file(model.checkpoint))
            stop_on(check_config_data(model.cfg, splits=('test',)))
    results, problems = run_cells(models, failures, args)
    if is_first_rank():
        write_report(models, failures, results, args.work_dir)
    stop_on(problems)


if __name__ == '__main__':
    run_tool(main)
