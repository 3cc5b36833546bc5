"""Time of whole models with the attention bias beside the baseline CMT, in one process.

Examples:
    python tools/benchmark_model.py --recipes tiny
    python tools/benchmark_model.py --recipes tiny 800x320 --repeats 5
    python tools/benchmark_model.py --recipes tiny --profile 15     # where the time goes
    python tools/benchmark_model.py --recipes 800x320 --tasks inference --repeats 15

The models of a recipe take turns on the same batch of the same data, so that what else the machine
does hits both; a time is the median over the repeats. On a CPU the sparse LiDAR encoder has no
backward pass (spconv), so where there is one it is frozen in both models.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmdet3d.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from rich.progress import track
from tabulate import tabulate
from torch import nn

import cmt_bias

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
# recipe: patterns of its baseline's and its biased config's file names
RECIPES = {
    'tiny': ('cmt/cmt-tiny_*.py', 'cmt_bias/cmt-bias-{preset}-tiny_*.py'),
    '800x320': ('cmt/cmt_voxel0100_*_8xb4-*.py', 'cmt_bias/cmt-bias-{preset}_*_800x320_8xb4-*.py'),
    '1600x640': ('cmt/cmt_voxel0075_*_8xb2-*.py', 'cmt_bias/cmt-bias-{preset}_*_1600x640_*.py'),
}
TASKS = ('training step', 'inference')
SPARSE_ENCODER = ('pts_voxel_encoder', 'pts_middle_encoder')


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--recipes', nargs='+', choices=RECIPES, default=['tiny', '800x320'])
    parser.add_argument('--preset', default='learnable', help='preset of the biased model')
    parser.add_argument('--data-root', default='data/synthetic/', help='converted dataset')
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=5, help='timed runs of each model')
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=TASKS)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--profile', type=int, default=0, metavar='N', help='also list the N costliest operators'
    )
    args = parser.parse_args()
    args.data_root = os.path.join(args.data_root, '')
    return args


def load_config(pattern: str, args: argparse.Namespace) -> Config:
    """A recipe that reads ``--data-root``."""
    (path,) = CONFIGS.glob(pattern.format(preset=args.preset))
    cfg = Config.fromfile(path)
    dataset = cfg.train_dataloader.dataset
    dataset = dataset.get('dataset', dataset)  # CBGS wraps it
    dataset.data_root = args.data_root
    for transform in dataset.pipeline:
        sampler = transform.get('db_sampler')
        if sampler is not None:
            sampler.data_root = args.data_root
            sampler.info_path = os.path.join(args.data_root, Path(sampler.info_path).name)
    cfg.train_dataloader.dataset = dataset
    return cfg


def build_model(cfg: Config, device: str) -> nn.Module:
    """The model of a config with random weights, the same for the parts that configs share."""
    if device == 'cpu' and cfg.model.pts_middle_encoder.type == 'SparseEncoder':
        cfg.model.frozen_modules = SPARSE_ENCODER
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    # not init_weights: pretrained weights do not change the time
    return model.to(device)


def make_tasks(cfg: Config, model: Any, samples: list[dict]) -> dict[str, Callable]:
    """What is timed: a training step, and inference of the same batch."""
    wrapper = dict(cfg.optim_wrapper, type='OptimWrapper')
    for key in ('loss_scale', 'dtype'):
        wrapper.pop(key, None)
    optimizer = build_optim_wrapper(model, wrapper)

    def train() -> None:
        model.train()
        torch.manual_seed(1)
        model.train_step(pseudo_collate(samples), optimizer)

    def infer() -> None:
        model.eval()
        with torch.no_grad():
            model.test_step(pseudo_collate(samples))

    return dict(zip(TASKS, (train, infer), strict=True))


def measure(function: Callable, device: str) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    if device.startswith('cuda'):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def load_tasks(recipe: str, args: argparse.Namespace) -> list[dict[str, Callable]]:
    """The tasks of a recipe's baseline and of its biased model, on the same batch."""
    configs = [load_config(pattern, args) for pattern in RECIPES[recipe]]
    dataset = DATASETS.build(configs[0].train_dataloader.dataset)
    samples = [dataset[index] for index in range(args.batch_size)]
    return [make_tasks(cfg, build_model(cfg, args.device), samples) for cfg in configs]


def benchmark(
    recipe: str, tasks: list[dict[str, Callable]], args: argparse.Namespace
) -> list[dict[str, str]]:
    """Time the two models of a recipe in turns; a row for each task."""
    rows = []
    for name in args.tasks:
        seconds: list[list[float]] = [[], []]
        for repeat in track(range(args.repeats + 1), f'{recipe}, {name}', transient=True):
            # every other time in reverse
            for which in (0, 1) if repeat % 2 else (1, 0):
                spent = measure(tasks[which][name], args.device)
                if repeat:  # the first one warms up
                    seconds[which].append(spent)
        baseline, biased = (statistics.median(of_model) for of_model in seconds)
        row = {'baseline (s)': baseline, 'with bias (s)': biased, 'ratio': biased / baseline}
        rows.append(dict(recipe=recipe, task=name, **{k: f'{v:.3f}' for k, v in row.items()}))
    return rows


def show_profile(title: str, function: Callable, device: str, num_operators: int) -> None:
    """Print the operators that take most of one call's time, without what they call themselves."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.startswith('cuda'):
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        measure(function, device)
    clock = 'self_device_time_total' if device.startswith('cuda') else 'self_cpu_time_total'
    table = profiler.key_averages().table(clock, num_operators, max_name_column_width=60)
    print(f'\n{title}\n{table}')


def main() -> None:
    """Print a table."""
    args = parse_args()
    init_default_scope('mmdet3d')
    is_cuda = args.device.startswith('cuda')
    hardware = torch.cuda.get_device_name() if is_cuda else platform.machine()
    print(
        f'{args.device}, {hardware}, {torch.get_num_threads()} threads, '
        f'torch {torch.__version__}, cmt_bias {cmt_bias.__version__}; '
        f"preset '{args.preset}' beside the baseline, batch {args.batch_size}"
    )
    rows = []
    for recipe in args.recipes:
        tasks = load_tasks(recipe, args)
        rows += benchmark(recipe, tasks, args)
        for model, of_model in zip(('baseline', 'with bias'), tasks, strict=True):
            for name in args.tasks if args.profile else ():
                title = f'{recipe}, {model}, {name}'
                show_profile(title, of_model[name], args.device, args.profile)
    print(f'\n{tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)}')


if __name__ == '__main__':
    main()
