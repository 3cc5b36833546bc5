"""Trains a tiny model with mmengine's Runner in processes that a test may kill.

Run as a program it reads one JSON object a line (`TrainingOptions`), forks a process that trains
as it says, and prints the process's number; at the next line it waits for that process and prints
its exit status. Forking from a process that has everything imported makes a run cost a fraction of
a second instead of the ten that the imports take.
"""

import functools
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner import runner as runner_module
from torch import nn
from torch.utils.data import Dataset

import cmt_bias.checkpoints
import cmt_bias.runs  # noqa: F401  registers hooks, loops and checkpoint loaders

NUM_SAMPLES, BATCH_SIZE, NUM_FEATURES = 16, 4, 6
ITERATIONS_PER_EPOCH = NUM_SAMPLES // BATCH_SIZE


@dataclass
class TrainingOptions:
    """What a test may choose; the defaults are a short exactly resumable run."""

    work_dir: str
    resume: bool = False
    load_from: str | None = None
    max_epochs: int = 4
    seed: int | None = 3
    num_workers: int = 0
    persistent_workers: bool = False
    per_epoch_seeds: bool = False
    num_processes: int = 1
    validate: bool = False
    hook: str = 'ResumableCheckpointHook'
    loop: str = 'EpochBasedTrainLoop'
    checkpoint_every_iters: int | None = None
    max_keep_ckpts: int = -1
    save_best: bool = False
    average: bool = False
    range_without_bounds: bool = False
    num_features: int = 8
    load_from_skip: list[str] | None = None
    largest_file: int | None = None
    extra_megabytes: int = 0
    seconds_per_iteration: float = 0.0
    die_at_iteration: int | None = None


class NoisySamples(Dataset):
    """Fixed samples with noise from every generator that real augmentations draw from."""

    metainfo = {'classes': ('thing',), 'anchors': np.arange(3.0)}

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.samples = torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator)

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        noise = random.random() + np.random.randn() + torch.randn(()).item()
        return {'batch': self.samples[index] + 0.1 * noise}


class TinyModel(BaseModel):
    """Two layers with batch norm and dropout, and an optional large buffer to slow down saving."""

    def __init__(self, options: TrainingOptions) -> None:
        super().__init__()
        width = options.num_features
        self.layers = nn.Sequential(
            nn.Linear(NUM_FEATURES, width),
            nn.BatchNorm1d(width),
            nn.Dropout(0.3),
            nn.Linear(width, 1),
        )
        self.register_buffer('ballast', torch.ones(options.extra_megabytes, 1 << 18))
        if options.range_without_bounds:
            self.register_buffer('range', torch.tensor([-torch.inf, torch.inf]))

    def forward(self, batch: torch.Tensor, mode: str = 'tensor') -> dict | list:
        output = self.layers(batch)
        if mode == 'loss':
            return {'loss': ((output - batch.sum(dim=1, keepdim=True)) ** 2).mean()}
        return [output]


class MeanOutput(BaseMetric):
    """A metric that draws random numbers, as evaluation code may."""

    def process(self, data_batch: torch.Tensor, data_samples: list) -> None:
        self.results.append(data_samples[0].mean().item() + np.random.rand())

    def compute_metrics(self, results: list) -> dict:
        return {'mean': np.float64(np.mean(results)), 'per_sample': np.asarray(results)}


class LossRecorder(Hook):
    """Appends `iteration loss` to losses.txt, the loss in hexadecimal; may kill the run."""

    priority = 'VERY_HIGH'

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options

    def after_train_iter(self, runner: Runner, *args: object, outputs: dict, **kwargs: object):
        with (Path(runner.work_dir) / f'losses_{runner.rank}.txt').open('a') as file:
            file.write(f'{runner.iter} {outputs["loss"].item().hex()}\n')
        runner.message_hub.update_scalar('train/not_kept', 1.0, resumed=False)
        time.sleep(self.options.seconds_per_iteration)
        if runner.iter == self.options.die_at_iteration:
            os.kill(os.getpid(), signal.SIGKILL)


def build_runner(options: TrainingOptions) -> Runner:
    """Build mmengine's Runner for the tiny model."""
    by_epoch = options.checkpoint_every_iters is None
    checkpoint = {
        'type': options.hook,
        'by_epoch': by_epoch,
        'interval': options.checkpoint_every_iters or 1,
        'max_keep_ckpts': options.max_keep_ckpts,
        'save_best': 'mean' if options.save_best else None,
        'rule': 'greater' if options.save_best else None,
    }
    by_iteration = options.loop == 'IterBasedTrainLoop'
    train_cfg = {'type': options.loop}
    if by_iteration:
        train_cfg['max_iters'] = options.max_epochs * ITERATIONS_PER_EPOCH
    else:
        train_cfg['max_epochs'] = options.max_epochs
    train_dataloader = {
        'dataset': NoisySamples(),
        'batch_size': BATCH_SIZE,
        'num_workers': options.num_workers,
        'persistent_workers': options.persistent_workers,
        'sampler': {'type': 'InfiniteSampler' if by_iteration else 'DefaultSampler'},
        'collate_fn': {'type': 'default_collate'},
    }
    validation: dict = {}
    if options.validate:
        val_dataloader = {**train_dataloader, 'num_workers': 0, 'persistent_workers': False}
        val_dataloader['sampler'] = {'type': 'DefaultSampler', 'shuffle': False}
        validation = {
            'val_dataloader': val_dataloader,
            'val_cfg': {},
            'val_evaluator': [MeanOutput()],
        }
    if options.per_epoch_seeds:
        train_dataloader['worker_init_fn'] = {'type': 'seed_worker_per_epoch'}
    averaging = [{'type': 'EMAHook', 'momentum': 0.1, 'update_buffers': True}]
    averaging = averaging if options.average else []
    return Runner(
        TinyModel(options),
        options.work_dir,
        train_dataloader=train_dataloader,
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.02}},
        param_scheduler=[
            {'type': 'CosineAnnealingLR', 'T_max': 16, 'by_epoch': False},
            {'type': 'CosineAnnealingMomentum', 'T_max': 16, 'eta_min': 0.8, 'by_epoch': False},
        ],
        train_cfg=train_cfg,
        default_hooks={'checkpoint': checkpoint},
        custom_hooks=[LossRecorder(options), *averaging],
        randomness={'seed': options.seed, 'diff_rank_seed': options.num_processes > 1},
        launcher='pytorch' if options.num_processes > 1 else 'none',
        cfg=Config(
            {
                'load_from_skip': options.load_from_skip,
                'model_wrapper_cfg': {
                    'type': 'MMDistributedDataParallel',
                    'device_ids': None,
                    'broadcast_buffers': False,
                },
            },
            format_python_code=False,  # with yapf, for every checkpoint
        ),
        resume=options.resume,
        load_from=options.load_from,
        log_level='WARNING',
        **validation,
    )


def train(options: TrainingOptions, rank: int) -> None:
    """Train, and write the final weights to final_weights.pth."""
    torch.set_num_threads(1)
    if options.largest_file is not None:  # as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.largest_file, options.largest_file))
    if options.num_processes > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK='0', WORLD_SIZE=str(options.num_processes))
        torch.distributed.init_process_group(
            'gloo',
            init_method=f'file://{options.work_dir}/rendezvous_{os.getpgid(0)}',
            rank=rank,
            world_size=options.num_processes,
        )
    runner = build_runner(options)
    runner.train()
    if rank == 0:
        model = runner.model.module if options.num_processes > 1 else runner.model
        torch.save(model.state_dict(), Path(options.work_dir) / 'final_weights.pth')


def _fork_training(options: TrainingOptions) -> int:
    """Start all processes of a run, in a process group of its own; returns that of rank 0."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    Path(options.work_dir).mkdir(parents=True, exist_ok=True)
    log = os.open(f'{options.work_dir}/output.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    rank = 0
    while rank + 1 < options.num_processes and not os.fork():
        rank += 1
    try:
        train(options, rank)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def serve() -> None:
    """Answer lines on standard input; see the top of this file."""
    # A runner asks compilers and drivers for their versions; all of them get one answer.
    runner_module.collect_env = functools.cache(runner_module.collect_env)
    runner_module.collect_env()
    sys.stdout.write('ready\n')
    sys.stdout.flush()
    process = None
    for line in sys.stdin:
        if process is None:
            process = _fork_training(TrainingOptions(**json.loads(line)))
            answer = process
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            process = None
        sys.stdout.write(f'{answer}\n')
        sys.stdout.flush()


if __name__ == '__main__':
    serve()
