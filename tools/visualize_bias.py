"""Draw the attention bias: where it acts, how strongly, and how it moves the attention.

    python tools/visualize_bias.py CONFIG CHECKPOINT                        # 4 samples
    python tools/visualize_bias.py CONFIG CHECKPOINT --count 20
    python tools/visualize_bias.py CONFIG CHECKPOINT --samples 0 17 TOKEN   # numbers or tokens
    python tools/visualize_bias.py CONFIG CHECKPOINT --layer 0 --modality L # cameras blinded

One picture a sample. Shown are the queries of the best detections, each with a number: their
windows in the six images and in the bird's-eye view, coloured by scale x weight; a list of them;
and for each decoder layer the share of their attention that goes to LiDAR and cameras, in and
outside their windows, with and without the bias. 'Without' leaves the bias out of that one layer:
the layer gets the same inputs, since the layers before it keep their bias.

attention_mass.csv in the same folder has these shares of every picture as numbers.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from mmengine.dataset import pseudo_collate
from rich.progress import track

from cmt_bias.atomic_file import save_figure, write_atomically
from cmt_bias.bias.head_lookup import biased_heads
from cmt_bias.problem import Problem
from cmt_bias.runs.preflight import ProblemsFound, run_tool
from cmt_bias.runs.run_options import positive
from cmt_bias.visualization import draw_bias, mass_table, observe_bias
from cmt_bias.visualization.dataset_scenes import open_scenes, picture_parser


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = picture_parser(__doc__)
    add = parser.add_argument
    add('checkpoint', help='checkpoint file')
    add('--out-dir', '--work-dir', type=Path, help='default: work_dirs/bias_pictures/<config>')
    add('--layer', type=int, help='decoder layer, from 0; default: the last')
    add('--max-queries', type=positive(int), default=12, help='those of the best detections')
    add(
        '--colour-limit',
        type=positive(float),
        help='bias of the strongest colour, logits; set it to compare pictures (default: the '
        'largest bias in the picture)',
    )
    parser.set_defaults(count=4)
    args = parser.parse_args()
    if args.out_dir is None:
        args.out_dir = Path('work_dirs') / 'bias_pictures' / Path(args.config).stem
    return args


def head_and_layer(model: Any, config: str, layer: int | None) -> tuple[Any, int]:
    """The model's head with a bias, and the number of the decoder layer to draw.

    Raises:
        ProblemsFound: If there is no such head or layer.
    """
    heads = biased_heads(model)
    if not heads:
        what = f"the model of '{config}' has no attention bias that could be drawn"
        remedy = (
            "name a config with pts_bbox_head=dict(type='AttentionBiasCmtHead', ...), such as "
            'those in configs/cmt_bias; tools/visualize.py draws the detections of other models'
        )
        raise ProblemsFound([Problem(what, remedy)])
    head: Any = heads[0].head
    last = head.transformer.decoder.num_layers - 1
    if layer is not None and not 0 <= layer <= last:
        what = f'--layer {layer}: the decoder has no such layer'
        raise ProblemsFound([Problem(what, f'choose among 0 to {last}')])
    return head, last if layer is None else layer


def main() -> None:
    """Check, and draw the chosen samples."""
    args = parse_args()
    model, scenes, indices = open_scenes(args)
    head, layer = head_and_layer(model, args.config, args.layer)
    tables = {}
    for index in track(indices, description='drawing'):
        example = scenes.load(index)
        forward = partial(model.test_step, pseudo_collate([example]))
        (data_sample,), observed = observe_bias(head, forward, args.score_thr, args.max_queries)
        scene = scenes.scene(index, example['inputs'], data_sample)
        figure = draw_bias(scene, observed, layer, args.bev_range, args.colour_limit)
        save_figure(figure, args.out_dir / f'{args.split}_{index:05d}_layer{layer}.png')
        tables[index, scenes.token(index)] = mass_table(observed)
    table = pd.concat(tables, names=['sample', 'token']).droplevel(-1)
    write_atomically(args.out_dir / 'attention_mass.csv', table.to_csv().encode())
    print(f'{len(indices)} pictures and attention_mass.csv in {args.out_dir}')


if __name__ == '__main__':
    run_tool(main)
