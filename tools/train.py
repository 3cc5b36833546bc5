"""Train a detector: mmdet3d's options, with checks of the data before and a summary at the start.

Examples:
    python tools/train.py configs/cmt/<recipe>.py
    python tools/train.py configs/cmt/<recipe>.py --resume
    bash tools/dist_train.sh configs/cmt/<recipe>.py 8 --auto-scale-lr
"""

import argparse

import torch
from mmengine.config import Config
from mmengine.dist import barrier
from mmengine.registry import RUNNERS

from cmt_bias.runs import run_options
from cmt_bias.runs.checkpoint_check import check_checkpoint_file
from cmt_bias.runs.data_check import check_config_data
from cmt_bias.runs.preflight import is_main_process, run_tool, stop_on


def parse_args() -> argparse.Namespace:
    """Command line: that of mmdet3d's tools/train.py without its Ceph store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--sync_bn',
        choices=['none', 'torch', 'mmcv'],
        default='none',
        help='share BatchNorm statistics between processes, with this implementation',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with processes x batch over auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint; without a path from the latest in the work folder',
    )
    return run_options.parse_run_args(parser)


def configure(args: argparse.Namespace) -> Config:
    """The config with all options of the command line in it."""
    cfg = run_options.load_config(args.config, args.cfg_options, args.launcher)
    run_options.set_work_dir(cfg, args.work_dir)
    if args.amp:
        run_options.enable_amp(cfg)
    if args.sync_bn != 'none':
        cfg.sync_bn = args.sync_bn
    if args.auto_scale_lr:
        run_options.enable_auto_scale_lr(cfg)
    run_options.set_resume(cfg, args.resume)
    run_options.ensure_hook(cfg, 'RunSummaryHook')
    return cfg


def main() -> None:
    """Check, then train."""
    args = parse_args()
    cfg = configure(args)
    without_amp = not torch.cuda.is_available() and run_options.disable_amp(cfg)
    if is_main_process():
        stop_on(check_checkpoint_file(cfg.get('load_from')))
        stop_on(check_config_data(cfg, splits=('train', 'val')))
    run_options.use_cpu_processes(cfg)
    runner = RUNNERS.build(cfg)
    if without_amp:
        runner.logger.warning('No GPU: AmpOptimWrapper is replaced, training in float32.')
    runner.train()
    # The first process alone writes the last checkpoint, which the others may be asked for next.
    barrier()


if __name__ == '__main__':
    run_tool(main)
