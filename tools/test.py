"""Test a trained detector with the official metric: mmdet3d's options and a few more.

Examples:
    python tools/test.py configs/cmt/<recipe>.py work_dirs/<recipe>/epoch_20.pth
    python tools/test.py CONFIG CHECKPOINT --modality C          # LiDAR missing
    python tools/test.py CONFIG CHECKPOINT --show-dir pictures   # a picture of each sample
    bash tools/dist_test.sh CONFIG CHECKPOINT 8
"""

import argparse
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS

from cmt_bias.metrics.nuscenes_metric_table import nuscenes_metric_table, parse_nuscenes_metrics
from cmt_bias.problem import Problem
from cmt_bias.runs import run_options
from cmt_bias.runs.checkpoint_check import check_checkpoint_file, check_tested_weights
from cmt_bias.runs.data_check import check_config_data
from cmt_bias.runs.preflight import ProblemsFound, is_main_process, run_tool, stop_on

TASKS = ('mono_det', 'multi-view_det', 'lidar_det', 'lidar_seg', 'multi-modality_det')


def parse_args() -> argparse.Namespace:
    """Command line: that of mmdet3d's tools/test.py without Ceph, and two more options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--modality',
        choices=['LC', 'L', 'C'],
        help='sensors that see anything: LiDAR, cameras or both (default: all that the model '
        'reads). A missing LiDAR is a cloud of zeros, a missing camera a black image, see '
        'cmt_bias/datasets/modal_mask.py',
    )
    parser.add_argument(
        '--allow-missing-keys', action='store_true', help='test though the checkpoint lacks parts'
    )
    parser.add_argument('--show', action='store_true', help='show each picture in a window')
    parser.add_argument('--show-dir', help='write a picture of each sample to this folder')
    parser.add_argument('--score-thr', type=float, default=0.1, help='least score in a picture')
    parser.add_argument(
        '--task', choices=TASKS, default='multi-modality_det', help='what --show draws'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds per shown picture; 0: a key ends it'
    )
    parser.add_argument('--tta', action='store_true', help='test time augmentation')
    return run_options.parse_run_args(parser)


def configure(args: argparse.Namespace) -> Config:
    """The config with all options of the command line in it."""
    cfg = run_options.load_config(args.config, args.cfg_options, args.launcher)
    run_options.set_work_dir(cfg, args.work_dir)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.tta:
        use_test_time_augmentation(cfg)
    run_options.set_modality(cfg, args.modality)
    folder = dict(out_dir=str(Path(args.show_dir).absolute())) if args.show_dir else {}
    if args.show or args.show_dir:
        run_options.add_picture_hook(cfg, score_thr=args.score_thr, **folder)
    if args.show:
        run_options.show_in_window(cfg, args.task, args.wait_time)
    return cfg


def use_test_time_augmentation(cfg: Config) -> None:
    """Switch the test to the config's ``tta_model`` and ``tta_pipeline``."""
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        what = f'--tta: the config has no {" and no ".join(missing)}'
        raise ProblemsFound([Problem(what, 'leave --tta out, or add them to the config')])
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def main() -> None:
    """Check, test, and print the metrics."""
    args = parse_args()
    cfg = configure(args)
    if is_main_process():
        stop_on(check_checkpoint_file(args.checkpoint))
        stop_on(check_config_data(cfg, splits=('test',)))
    run_options.use_cpu_processes(cfg)
    runner = RUNNERS.build(cfg)
    if is_main_process():
        stop_on(check_tested_weights(runner.model, args.checkpoint, args.allow_missing_keys))
    metrics = runner.test()
    if is_main_process():
        for name, scores in parse_nuscenes_metrics(metrics).items():
            title = f'{name}, sensors {args.modality or "as configured"}'
            runner.logger.info('\n' + nuscenes_metric_table(scores, title))


if __name__ == '__main__':
    run_tool(main)
