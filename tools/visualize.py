"""Draw samples: six cameras and the bird's-eye view with annotated and detected boxes.

    python tools/visualize.py CONFIG CHECKPOINT --out-dir pictures     # detections and annotations
    python tools/visualize.py CONFIG --out-dir pictures                # annotations alone
    python tools/visualize.py CONFIG --split train --out-dir pictures  # as training augments them

Shown are the images and points as the detector gets them, after every transform of the pipeline.
"""

import argparse
from pathlib import Path

import torch
from mmengine.dataset import pseudo_collate
from rich.progress import track

from cmt_bias.atomic_file import save_figure
from cmt_bias.runs.preflight import run_tool
from cmt_bias.visualization import draw_scene
from cmt_bias.visualization.dataset_scenes import open_scenes, picture_parser


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = picture_parser(__doc__)
    parser.add_argument('checkpoint', nargs='?', help='without it only annotations are drawn')
    parser.add_argument('--out-dir', type=Path, required=True, help='folder of the pictures')
    parser.set_defaults(count=8, bev_range=55.0)
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Draw the chosen samples of one split."""
    args = parse_args()
    model, scenes, indices = open_scenes(args)
    for index in track(indices, description='drawing'):
        example = scenes.load(index)
        data_sample = example['data_samples']
        if model is not None:
            (data_sample,) = model.test_step(pseudo_collate([example]))
        scene = scenes.scene(index, example['inputs'], data_sample)
        figure = draw_scene(scene, args.score_thr, args.bev_range)
        save_figure(figure, args.out_dir / f'{args.split}_{index:05d}.png')
    print(f'{len(indices)} pictures in {args.out_dir}')


if __name__ == '__main__':
    run_tool(main)
