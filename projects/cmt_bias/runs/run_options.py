"""What the options of ``tools/train.py`` and ``tools/test.py`` do to a config.

An option that cannot be what it says raises :class:`ProblemsFound`.
"""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import HOOKS

from ..checkpoints.latest_checkpoint import find_checkpoint_to_resume
from ..config_type import type_name
from ..datasets.modal_mask import with_modality
from ..problem import Problem
from ..unwrapping import unwrapped_config
from .data_check import SPLITS, innermost_datasets
from .preflight import ProblemsFound

Number = TypeVar('Number', int, float)
SENSOR_NAMES = {'L': 'LiDAR', 'C': 'cameras'}
# mmdet3d's name of a kind of picture -> the sensors in it
SHOWN_SENSORS = {
    'mono_det': 'C',
    'multi-view_det': 'C',
    'lidar_det': 'L',
    'multi-modality_det': 'LC',
}
WINDOWLESS_BACKENDS = ('agg', 'cairo', 'pdf', 'pgf', 'ps', 'svg', 'template')


def parse_run_args(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the options that all of mmdet3d's tools for runs have, and parse the command line.

    ``LOCAL_RANK`` is set in the environment, where mmengine looks for it.
    """
    parser.add_argument('--work-dir', help='folder of logs, and of checkpoints or metrics')
    overrides = 'settings that override the config: key=value, key="[a,b]", key=a,b'
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help=overrides)
    launchers = ['none', 'pytorch', 'slurm', 'mpi']
    parser.add_argument('--launcher', choices=launchers, default='none', help='job launcher')
    # torch.distributed.launch passes --local-rank, older versions --local_rank.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def positive(kind: Callable[[str], Number]) -> Callable[[str], Number]:
    """An argparse type for numbers above 0."""

    def parse(text: str) -> Number:
        number = kind(text)
        if not number > 0:
            raise argparse.ArgumentTypeError(f'{text} is not possible: give a number above 0')
        return number

    parse.__name__ = kind.__name__  # what argparse calls it where the text is no number
    return parse


def load_config(path: str, overrides: Mapping | None, launcher: str = 'none') -> Config:
    """Read a config file and merge what ``--cfg-options`` gave: dotted keys and their values."""
    if not Path(path).is_file():
        remedy = 'name a config file, such as configs/cmt/<recipe>.py'
        raise ProblemsFound([Problem(f"the config '{path}' does not exist", remedy)])
    try:
        cfg = without_formatting(Config.fromfile(path))
    except FileNotFoundError as error:
        what = f"the config '{path}' inherits from '{error.filename}', which does not exist"
        raise ProblemsFound([Problem(what, 'correct _base_ in the config')]) from error
    cfg.launcher = launcher
    cfg.merge_from_dict(overrides or {})
    for split in SPLITS:
        dataloader = cfg.get(f'{split}_dataloader') or {}
        if not dataloader.get('num_workers'):  # torch then refuses settings of workers
            for key in ('persistent_workers', 'prefetch_factor', 'multiprocessing_context'):
                dataloader.pop(key, None)
    return cfg


def without_formatting(cfg: Config) -> Config:
    """The config, set to be written down without yapf: that takes a second, four times in a run.

    mmengine 0.10 has an option for this, which ``Config.fromfile`` does not pass on.
    """
    object.__setattr__(cfg, '_format_python_code', False)
    return cfg


def use_cpu_processes(cfg: Config) -> None:
    """Prepare a launch of several processes on a machine without GPU.

    mmengine takes for granted that every process of torchrun has a GPU. It leaves a process group
    alone that is there already, and DistributedDataParallel without devices if configured so.
    """
    if cfg.launcher != 'pytorch' or torch.cuda.is_available():
        return
    if cfg.get('model_wrapper_cfg') is None:
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(backend='gloo')


def set_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Where logs and checkpoints go: the option, the config's ``work_dir``, or its file's name."""
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(cfg.filename).stem}'


def enable_amp(cfg: Config) -> None:
    """Switch a float32 training to mixed precision with dynamic loss scale."""
    kind = type_name(cfg.optim_wrapper) or 'OptimWrapper'
    if kind == 'OptimWrapper':
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    elif kind != 'AmpOptimWrapper':
        what = f'--amp cannot be used: optim_wrapper.type is {kind}, not OptimWrapper'
        raise ProblemsFound([Problem(what, f'leave --amp out, or set mixed precision in {kind}')])


def disable_amp(cfg: Config) -> bool:
    """Train in float32, as one must without a GPU; whether mixed precision was set before."""
    if type_name(cfg.optim_wrapper) != 'AmpOptimWrapper':
        return False
    cfg.optim_wrapper.type = 'OptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        cfg.optim_wrapper.pop(key, None)
    return True


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the batch, as the config's ``auto_scale_lr`` says."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        what = '--auto-scale-lr: the config has no auto_scale_lr.base_batch_size'
        remedy = 'set it to the batch size that the learning rate is meant for'
        raise ProblemsFound([Problem(what, remedy)])
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: Config, resume: str | None) -> None:
    """Go on with an earlier training: from a path, or 'auto' from :func:`newest_checkpoint`.

    Where 'auto' finds none, training starts as without it, from the config's ``load_from``.
    """
    if resume == 'auto':
        resume = newest_checkpoint(cfg, cfg.work_dir)
    if resume is not None:
        cfg.resume = True
        cfg.load_from = resume


def newest_checkpoint(cfg: Config, work_dir: str) -> str | None:
    """The newest usable checkpoint of a run, named as the config names it; None without any.

    Raises:
        CheckpointError: If there are checkpoints, but none that can be used.
    """
    settings = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    hook = HOOKS.build({'type': 'ResumableCheckpointHook', **settings})
    return find_checkpoint_to_resume(hook, work_dir)


def ensure_hook(cfg: Config, hook_type: str, **defaults: Any) -> list[ConfigDict]:
    """The config's hooks of a type; without one, it is added with the defaults."""
    hooks = list(cfg.get('custom_hooks') or [])
    if all(type_name(hook) != hook_type for hook in hooks):
        hooks.append(dict(type=hook_type, **defaults))
    cfg.custom_hooks = hooks
    return [hook for hook in cfg.custom_hooks if type_name(hook) == hook_type]


def add_picture_hook(cfg: Config, **settings: Any) -> None:
    """Change or add a ``DetectionPictureHook``; without ``out_dir`` a new one writes no files."""
    for hook in ensure_hook(cfg, 'DetectionPictureHook', save='out_dir' in settings):
        hook.update(settings)


def show_in_window(cfg: Config, task: str, wait_time: float) -> None:
    """Show the picture of each sample's detections in a window, for ``wait_time`` seconds."""
    if task not in SHOWN_SENSORS:
        remedy = f'choose one of {", ".join(SHOWN_SENSORS)}'
        raise ProblemsFound([Problem(f'--task {task}: the model detects boxes', remedy)])
    backend = str(matplotlib.get_backend())
    if backend.lower() in WINDOWLESS_BACKENDS:
        what = f"--show: no window can be opened here (matplotlib's backend is {backend})"
        raise ProblemsFound([Problem(what, 'write the pictures to files, with --show-dir')])
    add_picture_hook(cfg, show=True, wait_time=wait_time, sensors=SHOWN_SENSORS[task])


def model_modality(model: Mapping) -> str:
    """The sensors that a detector reads: 'LC', 'L' or 'C', by the backbones that it has."""
    reads_points = model.get('pts_voxel_encoder') or model.get('pts_backbone')
    return 'L' * bool(reads_points) + 'C' * bool(model.get('img_backbone'))


def set_modality(cfg: Config, modality: str | None) -> None:
    """Blind the sensors that ``modality`` ('LC', 'L' or 'C') leaves out, in validation and test.

    See :mod:`cmt_bias.datasets.modal_mask` for what a missing sensor is.
    """
    if modality is None:  # of any config, also one without a model
        return
    available = model_modality(unwrapped_config(cfg.model))
    if modality == available:
        return
    absent = [SENSOR_NAMES[sensor] for sensor in modality if sensor not in available]
    if absent:
        read = ' and '.join(SENSOR_NAMES[sensor] for sensor in available) or 'no known sensor'
        what = f'--modality {modality}: the model reads {read}, no {" and no ".join(absent)}'
        remedy = f'leave --modality out (this model: {available}), or test a fusion model'
        raise ProblemsFound([Problem(what, remedy)])
    for split in ('val', 'test'):
        for dataset in innermost_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            dataset['pipeline'] = with_modality(dataset['pipeline'], modality)
