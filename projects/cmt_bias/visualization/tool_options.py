"""What the command lines of tools/visualize.py and tools/visualize_bias.py have in common."""

import argparse
from typing import Any

import torch
from mmdet3d.registry import DATASETS
from mmengine.config import DictAction
from mmengine.registry import init_default_scope

from ..runs.checkpoint_check import build_tested_model, check_checkpoint_file
from ..runs.data_check import check_config_data
from ..runs.preflight import stop_on
from ..runs.run_options import load_config, positive, set_modality
from .dataset_scenes import DatasetScenes


def picture_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that both tools have; lacks ``checkpoint`` and ``--out-dir``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', help='config file')
    add('--split', choices=('train', 'val', 'test'), default='test')
    add('--samples', '--indices', nargs='+', help='numbers or tokens of the samples to draw')
    add(
        '--count',
        '--max-samples',
        type=positive(int),
        help='without --samples: so many, spread evenly (default: %(default)s)',
    )
    add('--score-thr', type=float, default=0.3, help='least score that is drawn')
    add('--bev-range', type=positive(float), help="half a side of the bird's-eye view, metres")
    add('--modality', choices=['LC', 'L', 'C'], help='sensors that see anything, as in test.py')
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='e.g. cuda:1')
    add('--cfg-options', nargs='+', action=DictAction, help='override settings, as in test.py')
    return parser


def open_scenes(args: argparse.Namespace) -> tuple[Any, DatasetScenes, list[int]]:
    """The model, None without a checkpoint, the dataset, and the numbers of the samples to draw.

    Raises:
        ProblemsFound: If config, data, checkpoint or samples are not there.
        CheckpointError: If the checkpoint is damaged, unsafe to read or of another model.
    """
    config = load_config(args.config, args.cfg_options)
    set_modality(config, args.modality)
    stop_on(check_checkpoint_file(args.checkpoint))
    stop_on(check_config_data(config, splits=(args.split,), evaluates=False))
    init_default_scope(config.get('default_scope', 'mmdet3d'))
    scenes = DatasetScenes(DATASETS.build(config[f'{args.split}_dataloader'].dataset))
    indices = scenes.choose(args.samples, args.count)
    if args.checkpoint is None:
        return None, scenes, indices
    return build_tested_model(config, args.checkpoint, args.device), scenes, indices
