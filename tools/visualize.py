"""Draw samples: six cameras and the bird's-eye view with annotated and detected boxes.

    python tools/visualize.py CONFIG CHECKPOINT --out-dir pictures     # detections and annotations
    python tools/visualize.py CONFIG --out-dir pictures                # annotations alone
    python tools/visualize.py CONFIG --split train --out-dir pictures  # as training augments them

Shown are the images and points as the detector gets them, after every transform of the pipeline;
with --image-source file the camera files in their full size.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from mmdet3d.registry import DATASETS
from mmengine.config import DictAction
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from rich.progress import track

from cmt_bias.runs.checkpoint_check import build_tested_model, check_checkpoint_file
from cmt_bias.runs.data_check import check_config_data
from cmt_bias.runs.preflight import run_tool, stop_on
from cmt_bias.runs.run_options import load_config, positive
from cmt_bias.visualization import DatasetScenes, draw_scene, save_figure


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='without it only annotations are drawn')
    parser.add_argument('--out-dir', type=Path, required=True, help='folder of the pictures')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='test')
    parser.add_argument(
        '--samples', '--indices', nargs='+', help='numbers or tokens of the samples to draw'
    )
    parser.add_argument(
        '--count',
        '--max-samples',
        type=positive(int),
        default=8,
        help='without --samples: so many, spread evenly',
    )
    parser.add_argument('--score-thr', type=float, default=0.3, help='least score that is drawn')
    parser.add_argument(
        '--bev-range',
        type=positive(float),
        default=55.0,
        help="half a side of the bird's-eye view, metres",
    )
    parser.add_argument(
        '--image-source',
        choices=('input', 'file'),
        default='input',
        help='images as the detector gets them, or the camera files',
    )
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='e.g. cuda:1'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override settings, as in test.py'
    )
    return parser.parse_args()


@torch.no_grad()
def draw_sample(scenes: DatasetScenes, index: int, model: Any, args: argparse.Namespace) -> None:
    """Run one sample through the pipeline and the detector, and write its picture."""
    example = scenes.load(index)
    data_sample = example['data_samples']
    if model is not None:
        (data_sample,) = model.test_step(pseudo_collate([example]))
    scene = scenes.scene(index, example['inputs'], data_sample, args.image_source)
    figure = draw_scene(scene, args.score_thr, args.bev_range)
    save_figure(figure, args.out_dir / f'{args.split}_{index:05d}.png')


def main() -> None:
    """Draw the chosen samples of one split."""
    args = parse_args()
    config = load_config(args.config, args.cfg_options)
    stop_on(check_checkpoint_file(args.checkpoint))
    stop_on(check_config_data(config, splits=(args.split,), evaluates=False))
    init_default_scope(config.get('default_scope', 'mmdet3d'))
    scenes = DatasetScenes(DATASETS.build(config[f'{args.split}_dataloader'].dataset))
    indices = scenes.choose(args.samples, args.count)
    model = None
    if args.checkpoint is not None:
        model = build_tested_model(config, args.checkpoint, args.device)
    for index in track(indices, description='drawing'):
        draw_sample(scenes, index, model, args)
    print(f'{len(indices)} pictures in {args.out_dir}')


if __name__ == '__main__':
    run_tool(main)
