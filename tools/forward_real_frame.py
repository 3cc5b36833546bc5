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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_FRAME_DIR = REPOSITORY.parent / 'shared' / 'real_frame'
RELEASED_RECIPES = (
    'configs/cmt/cmt_voxel0100_r50_800x320_8xb4-cyclic-20e_nus-3d.py',
    'configs/cmt/cmt_voxel0075_vov99_1600x640_8xb2-cyclic-20e_nus-3d.py',
)


@dataclass
class ForwardReport:
    """What one recipe's forward took and gave.

    Attributes:
        config: the recipe's file.
        stages: seconds of each stage in the order they ran; parts of the detector by the names
            of its submodules, ``rest of the detector`` being decoding and glue between them.
        peak_memory_gib: the most memory the process ever held (resident set size).
        num_points: LiDAR points after the pipeline.
        num_voxels: voxels the detector encodes; 0 for a recipe without LiDAR.
        image_shape: (views, channels, height, width) after the pipeline.
        num_boxes: boxes the detector gave.
        num_finite_boxes: boxes of which every number is finite.
        highest_score: of all boxes; 0 without boxes.
    """

    config: str
    stages: dict[str, float] = field(default_factory=dict)
    peak_memory_gib: float = 0.0
    num_points: int = 0
    num_voxels: int = 0
    image_shape: tuple[int, ...] = ()
    num_boxes: int = 0
    num_finite_boxes: int = 0
    highest_score: float = 0.0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of a block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - start


def find_info_file(frame_dir: Path) -> Path:
    """The frame's mmdet3d info file.

    Raises:
        FileNotFoundError: if the folder is absent or does not hold exactly one info file.
    """
    found = sorted(frame_dir.glob('*.pkl'))
    if len(found) != 1:
        state = f'holds {len(found)} .pkl files' if frame_dir.is_dir() else 'does not exist'
        raise FileNotFoundError(
            f'{frame_dir} {state}; it must hold one frame: an mmdet3d 1.1 info file (.pkl) and, '
            'beside it, the images and the LiDAR file it names. Say where with --frame-dir'
        )
    return found[0]


def frame_dataset_config(config: Any, frame_dir: Path) -> Any:
    """The test dataset of a recipe, reading the frame instead of the recipe's own data.

    Args:
        config: the recipe (mmengine ``Config``).
        frame_dir: absolute folder with the info file and every file it names.

    Returns:
        The dataset's config, pipeline unchanged.
    """
    dataset = config.test_dataloader.dataset.copy()
    while 'dataset' in dataset:
        dataset = dataset.dataset.copy()
    folder = str(frame_dir)
    prefixes = dict.fromkeys({'pts', 'img', 'sweeps', *dataset.get('data_prefix', {})}, folder)
    dataset.pop('indices', None)
    dataset.update(data_root=folder, ann_file=str(find_info_file(frame_dir)), data_prefix=prefixes)
    return dataset


def measure_recipe(
    config_file: str, frame_dir: Path, seed: int, picture: Path | None
) -> ForwardReport:
    """Run one recipe on the frame in this process.

    Args:
        config_file: the recipe.
        frame_dir: absolute folder of the frame.
        seed: of the random weights.
        picture: file for a picture of the frame with its annotated boxes as the pipeline gives
            them to the detector; None for none.

    Returns:
        Times, memory and what came out.
    """
    report = ForwardReport(config=config_file)
    with report.timed('imports'):
        import torch
        from mmdet3d.registry import DATASETS, MODELS
        from mmengine.config import Config
        from mmengine.dataset import pseudo_collate
        from mmengine.registry import init_default_scope

        config = Config.fromfile(config_file)
        init_default_scope('mmdet3d')
    with report.timed('dataset'):
        dataset = DATASETS.build(frame_dataset_config(config, frame_dir))
    with report.timed('test pipeline'):
        batch = pseudo_collate([dataset[0]])
    with report.timed('detector built'):
        torch.manual_seed(seed)
        # Submodules keep torch's own initialisation: no weights file is looked for.
        model = MODELS.build(config.model).eval()
    _time_submodules(model, report)
    start = time.perf_counter()
    before = sum(report.stages.values())
    with torch.no_grad():
        (result,) = model.test_step(batch)
    elapsed = time.perf_counter() - start
    report.stages['rest of the detector'] = elapsed - (sum(report.stages.values()) - before)
    _describe_result(report, batch, result)
    report.peak_memory_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    if picture:
        from cmt_bias.visualization import DatasetScenes, draw_scene, save_figure

        inputs = {key: values[0] for key, values in batch['inputs'].items()}
        scene = DatasetScenes(dataset).scene(0, inputs, batch['data_samples'][0])
        save_figure(draw_scene(scene), picture)
    return report


def _time_submodules(model: Any, report: ForwardReport) -> None:
    """Have every direct submodule of the detector add its forward time to the report."""
    started: dict[str, float] = {}
    for name, module in model.named_children():

        def start(module: Any, args: Any, name: str = name) -> None:
            started[name] = time.perf_counter()

        def stop(module: Any, args: Any, output: Any, name: str = name) -> None:
            seconds = time.perf_counter() - started[name]
            report.stages[name] = report.stages.get(name, 0.0) + seconds
            if name == 'data_preprocessor' and 'voxels' in output['inputs']:
                report.num_voxels = len(output['inputs']['voxels']['voxels'])

        module.register_forward_pre_hook(start)
        module.register_forward_hook(stop)


def _describe_result(report: ForwardReport, batch: dict, result: Any) -> None:
    inputs = batch['inputs']
    if 'points' in inputs:
        report.num_points = len(inputs['points'][0])
    if 'img' in inputs:
        report.image_shape = tuple(inputs['img'][0].shape)
    found = result.pred_instances_3d
    report.num_boxes = len(found)
    if len(found):
        finite = found.bboxes_3d.tensor.isfinite().all(dim=1) & found.scores_3d.isfinite()
        report.num_finite_boxes = int(finite.sum())
        report.highest_score = float(found.scores_3d.max())


def measure_in_own_process(config_file: str, args: argparse.Namespace) -> ForwardReport:
    """Run one recipe in a fresh process, whose peak memory is then the recipe's alone."""
    picture = args.picture_dir and args.picture_dir / f'{Path(config_file).stem}.png'
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        job = pool.submit(measure_recipe, config_file, args.frame_dir, args.seed, picture)
        try:
            return job.result()
        except BrokenProcessPool:
            sys.exit(f'{config_file}: the process was killed; has the machine enough memory?')


def print_reports(reports: list[ForwardReport]) -> None:
    """Print one table: a column a recipe, a row a stage."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title='one real frame to boxes, random weights, seconds per stage')
    table.add_column('stage')
    for report in reports:
        table.add_column(Path(report.config).stem, justify='right', overflow='fold')
    stages = list(dict.fromkeys(stage for report in reports for stage in report.stages))
    for stage in stages:
        times = [report.stages.get(stage) for report in reports]
        table.add_row(stage, *('' if seconds is None else f'{seconds:.2f}' for seconds in times))
    table.add_section()
    rows = {
        'all stages': [f'{sum(r.stages.values()):.1f} s' for r in reports],
        'peak memory': [f'{r.peak_memory_gib:.2f} GiB' for r in reports],
        'images': [' x '.join(map(str, r.image_shape)) or 'none' for r in reports],
        'LiDAR points, voxels': [f'{r.num_points}, {r.num_voxels}' for r in reports],
        'boxes (finite)': [f'{r.num_boxes} ({r.num_finite_boxes})' for r in reports],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    # Captured output has no terminal width: wide enough that names are not cut.
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='*', default=None, help='recipes; the two released ones')
    parser.add_argument('--frame-dir', type=Path, default=DEFAULT_FRAME_DIR)
    parser.add_argument('--seed', type=int, default=0, help='seed of the random weights')
    parser.add_argument('--json', type=Path, help='also write the numbers to this file')
    parser.add_argument(
        '--picture-dir', type=Path, help='also draw the frame with its annotated boxes there'
    )
    args = parser.parse_args()
    args.frame_dir = args.frame_dir.resolve()
    args.configs = args.configs or [str(REPOSITORY / recipe) for recipe in RELEASED_RECIPES]
    return args


def main() -> None:
    """Measure each recipe in a process of its own and print the table."""
    args = parse_args()
    try:
        find_info_file(args.frame_dir)
    except FileNotFoundError as error:
        sys.exit(str(error))
    reports = [measure_in_own_process(config, args) for config in args.configs]
    print_reports(reports)
    if args.json:
        from cmt_bias.atomic_file import write_atomically

        content = [asdict(report) for report in reports]
        write_atomically(args.json, json.dumps(content, indent=2).encode())


if __name__ == '__main__':
    main()
