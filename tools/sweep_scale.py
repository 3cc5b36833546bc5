"""Test a trained model under several scales of its attention bias, overall and by condition.

    python tools/sweep_scale.py CONFIG CHECKPOINT
    python tools/sweep_scale.py CONFIG CHECKPOINT --values 0 1 2 3 4 --work-dir DIR

Every value is one test as tools/test.py makes it, with all entries of the bias scale (layers,
modalities) set to it. The model's own range of the scale does not hold for the values: they may
lie beyond it. The learned scale is tested too, and gives exactly the metrics of tools/test.py.
Backbones, tokens, windows and trust weights are computed once per sample, so one pass over the
data serves all values.

Written to --work-dir: sweep_scale.md, sweep_scale.png and sweep_scale.csv with NDS, mAP and the
other metrics by scale and condition (day, night, rain, from the scene descriptions).
"""

import argparse
import math
import shlex
import sys
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS

from cmt_bias.runs import run_options
from cmt_bias.runs.checkpoint_check import check_checkpoint_file, check_tested_weights
from cmt_bias.runs.data_check import check_config_data
from cmt_bias.runs.preflight import run_tool, stop_on
from cmt_bias.study import scale_sweep

DEFAULT_VALUES = [step / 2 for step in range(13)]


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--values',
        type=bias_scale,
        nargs='+',
        default=DEFAULT_VALUES,
        help='scales in logits, at least 0; default: 0 0.5 ... 6',
    )
    parser.add_argument('--work-dir', help='default: work_dirs/sweep_scale/<config>')
    parser.add_argument(
        '--allow-missing-keys', action='store_true', help='as tools/test.py understands it'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that override the config: key=value, key="[a,b]", key=a,b',
    )
    return parser.parse_args()


def bias_scale(text: str) -> float:
    """An argparse type: a scale in logits."""
    scale = float(text)
    if not 0 <= scale < math.inf:
        remedy = 'give finite numbers from 0 (no bias) upwards, in logits'
        raise argparse.ArgumentTypeError(f'{text} cannot be a bias scale: {remedy}')
    return abs(scale)  # -0.0 is 0


def configure(args: argparse.Namespace) -> Config:
    """The config with all options of the command line, and the sweep for its test loop."""
    cfg = run_options.load_config(args.config, args.cfg_options)
    default = f'work_dirs/sweep_scale/{Path(args.config).stem}'
    run_options.set_work_dir(cfg, args.work_dir or default)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    cfg.test_cfg = dict(cfg.get('test_cfg') or {}, type=scale_sweep.ScaleSweepLoop.__name__)
    cfg.test_cfg.scales = sorted(set(args.values))
    return cfg


def main() -> None:
    """Check, test, and report."""
    args = parse_args()
    cfg = configure(args)
    stop_on(check_checkpoint_file(args.checkpoint))
    stop_on(check_config_data(cfg, splits=('test',)))
    runner = RUNNERS.build(cfg)
    scale_sweep.find_swept_head(runner.model)
    stop_on(check_tested_weights(runner.model, args.checkpoint, args.allow_missing_keys))
    runner.test()
    loop, out_dir = runner.test_loop, Path(cfg.work_dir)
    table = scale_sweep.sweep_table(loop.learned, loop.parts)
    source = f'Config `{args.config}`, checkpoint `{args.checkpoint}`.'
    scale_sweep.write_sweep(
        table, loop.learned, out_dir, source, shlex.join(['python', *sys.argv])
    )
    for score in scale_sweep.SCORES:
        shown = scale_sweep.score_table(table, score)
        print(f'\n{shown.to_markdown(floatfmt=".4f")}')
    print(f'report: {out_dir / scale_sweep.REPORT}')


if __name__ == '__main__':
    run_tool(main)
