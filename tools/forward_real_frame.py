"""Take one real nuScenes frame through a recipe's test pipeline and its detector, to boxes.

The detector has random weights, so the boxes mean nothing; what is shown is that the full-size
recipe runs on this machine, how long each part takes and how much memory the process needs.

    python tools/forward_real_frame.py                      # both released fusion recipes
    python tools/forward_real_frame.py CONFIG [CONFIG ...]  # any other
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_FRAME_DIR = REPOSITORY.parent / 'shared' / 'real_frame'
RELEASED_RECIPES = (
    'configs/cmt/cmt_voxel0100_r50_800x320_8xb4-cyclic-20e_nus-3d.py',
    'configs/cmt/cmt_voxel0075_vov99_1600x640_8xb2-cyclic-20e_nus-3d.py',
)


@contextmanager
def timed(stages: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds of a block to a stage."""
    start = time.perf_counter()
    yield
    stages[stage] += time.perf_counter() - start


def find_info_file(frame_dir: Path) -> Path:
    """The frame's mmdet3d info file; ends the tool if the folder does not hold exactly one."""
    found = sorted(frame_dir.glob('*.pkl'))
    if len(found) != 1:
        state = f'holds {len(found)} .pkl files' if frame_dir.is_dir() else 'does not exist'
        sys.exit(
            f'{frame_dir} {state}; it must hold one frame: an mmdet3d 1.1 info file (.pkl) and, '
            'beside it, the images and the LiDAR file it names. Say where with --frame-dir'
        )
    return found[0]


def frame_dataset_config(config: Any, info_file: Path) -> dict:
    """The test dataset of a recipe (mmengine ``Config``), without wrappers, reading the frame."""
    from cmt_bias.runs.data_check import innermost_datasets  # importing it is timed elsewhere

    dataset = innermost_datasets(config.test_dataloader.dataset)[0]
    prefixes = {'pts', 'img', 'sweeps', *dataset.get('data_prefix', {})}
    folders = dict.fromkeys(prefixes, str(info_file.parent))
    settings = dict(dataset, data_root='', ann_file=str(info_file), data_prefix=folders)
    settings.pop('indices', None)
    return settings


def measure_recipe(config_file: str, info_file: Path) -> dict[str, Any]:
    """Run one recipe in this process, on the frame of an info file in whose folder its data are.

    Returns:
        ``stages``: seconds of each stage in the order they ran, parts of the detector by the names
        of its submodules, ``rest of the detector`` being decoding and glue between them;
        ``peak_memory_gib``: the most memory the process ever held (resident set size);
        ``num_points`` after the pipeline; ``num_voxels`` that the detector encodes, 0 without
        LiDAR; ``image_shape``: (views, channels, height, width) after the pipeline; ``num_boxes``;
        ``num_finite_boxes``, of which every number is finite; ``highest_score`` of all boxes.
    """
    stages: defaultdict[str, float] = defaultdict(float)
    report: dict[str, Any] = dict(config=config_file, stages=stages, num_voxels=0)
    with timed(stages, 'imports'):
        import torch
        from mmdet3d.registry import DATASETS, MODELS
        from mmengine.config import Config
        from mmengine.dataset import pseudo_collate
        from mmengine.registry import init_default_scope

        config = Config.fromfile(config_file)
        init_default_scope('mmdet3d')
    with timed(stages, 'dataset'):
        dataset = DATASETS.build(frame_dataset_config(config, info_file))
    with timed(stages, 'test pipeline'):
        batch = pseudo_collate([dataset[0]])
    with timed(stages, 'detector built'):
        torch.manual_seed(0)
        # Submodules keep torch's own initialisation: no weights file is looked for.
        model = MODELS.build(config.model).eval()
    time_submodules(model, report)
    before = sum(stages.values())
    start = time.perf_counter()
    with torch.no_grad():
        found = model.test_step(batch)[0].pred_instances_3d
    elapsed = time.perf_counter() - start
    stages['rest of the detector'] = elapsed - (sum(stages.values()) - before)
    inputs = batch['inputs']
    finite = found.bboxes_3d.tensor.isfinite().all(dim=1) & found.scores_3d.isfinite()
    return dict(
        report,
        peak_memory_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
        num_points=len(inputs['points'][0]) if 'points' in inputs else 0,
        image_shape=tuple(inputs['img'][0].shape) if 'img' in inputs else (),
        num_boxes=len(found),
        num_finite_boxes=int(finite.sum()),
        highest_score=max(found.scores_3d.tolist(), default=0.0),
    )


def time_submodules(model: Any, report: dict[str, Any]) -> None:
    """Have every direct submodule of the detector add its forward time to the report."""
    started: dict[str, float] = {}
    for name, module in model.named_children():

        def start(module: Any, args: Any, name: str = name) -> None:
            started[name] = time.perf_counter()

        def stop(module: Any, args: Any, output: Any, name: str = name) -> None:
            report['stages'][name] += time.perf_counter() - started[name]
            if name == 'data_preprocessor' and 'voxels' in output['inputs']:
                report['num_voxels'] = len(output['inputs']['voxels']['voxels'])

        module.register_forward_pre_hook(start)
        module.register_forward_hook(stop)


def show(report: dict[str, Any]) -> None:
    """Print a recipe's table."""
    rows = {stage: f'{seconds:.2f} s' for stage, seconds in report['stages'].items()}
    rows['all stages'] = f'{sum(report["stages"].values()):.1f} s'
    rows['peak memory'] = f'{report["peak_memory_gib"]:.2f} GiB'
    rows['images'] = ' x '.join(map(str, report['image_shape'])) or 'none'
    rows['LiDAR points, voxels'] = f'{report["num_points"]}, {report["num_voxels"]}'
    rows['boxes (finite)'] = f'{report["num_boxes"]} ({report["num_finite_boxes"]})'
    headers = ('one real frame to boxes, random weights', Path(report['config']).stem)
    print(f'{tabulate(rows.items(), headers, tablefmt="pipe")}\n')


def main() -> None:
    """Measure each recipe in a process of its own, whose peak memory is its alone; print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='*', help='recipes; the two released ones')
    parser.add_argument(
        '--frame-dir', type=Path, default=DEFAULT_FRAME_DIR, help='info file, images and cloud'
    )
    parser.add_argument('--json', type=Path, help='also write the numbers to this file')
    args = parser.parse_args()
    info_file = find_info_file(args.frame_dir.resolve())
    reports = []
    for config in args.configs or [str(REPOSITORY / recipe) for recipe in RELEASED_RECIPES]:
        with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
            try:
                reports.append(pool.submit(measure_recipe, config, info_file).result())
            except BrokenProcessPool:
                sys.exit(f'{config}: the process was killed; has the machine enough memory?')
        show(reports[-1])
    if args.json:
        args.json.write_text(json.dumps(reports, indent=2))


if __name__ == '__main__':
    main()
