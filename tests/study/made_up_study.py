"""The folder of a study with made-up but realistic numbers, as tools/run_study.py leaves it."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cmt_bias.bias.monitor.history import BiasScaleHistory, BiasScaleRecord
from cmt_bias.metrics.subset_evaluation import SMALL_OBJECTS, Subset
from cmt_bias.study.run_results import CACHE_FILE
from cmt_bias.study.run_state import DETECTIONS, RunState, write_state
from cmt_bias.study.study_folder import STUDY_FILE, StudyRecord

PREFIX = 'NuScenes metric/pred_instances_3d_NuScenes/'
ERRORS = {'mATE': 0.62, 'mASE': 0.31, 'mAOE': 0.74, 'mAVE': 0.93, 'mAAE': 0.28}
# variant: title, names of its scales, where they start and where they go, change of mAP
VARIANTS = {
    'no_bias': ('CMT without bias, fine-tuned equally long', (), 0.0, (), -0.006),
    'fixed_2.5': ('scale fixed at 2.5', ('shared',), 2.5, (2.5,), 0.0),
    'learned_1.5': ('learned from 1.5', ('shared',), 1.5, (2.1,), 0.012),
    'per_modality': ('a scale for each sensor', ('lidar', 'camera'), 2.5, (3.0, 1.9), 0.001),
}
PARTS = {
    'whole': ('whole', 120, 2400, ()),
    'day': ('condition', 60, 1300, ()),
    'night': ('condition', 30, 520, ('bicycle',)),
    'rain': ('condition', 30, 580, ()),
    '0-20 m': ('distance', 120, 1100, ()),
    '20-40 m': ('distance', 120, 1000, ()),
    '40+ m': ('distance', 120, 300, ('pedestrian', 'traffic_cone', 'barrier')),
}
LEVELS = dict(zip(PARTS, (0.31, 0.34, 0.24, 0.29, 0.42, 0.25, 0.08), strict=True))
ITERATIONS = 360


def write_made_up_study(work_dir: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """A finished study of the variants above."""
    record = StudyRecord(
        name='learnable_scale',
        title='Learned scale of the attention bias',
        variants={name: settings[0] for name, settings in VARIANTS.items()},
        reference='fixed_2.5',
        seeds=seeds,
        start='work_dirs/demo/cmt_tiny/train/epoch_34.pth',
        command='python tools/run_study.py configs/studies/learnable_scale.py --work-dir DIR',
    )
    work_dir.mkdir(parents=True, exist_ok=True)
    (work_dir / STUDY_FILE).write_text(json.dumps(asdict(record)))
    for number, variant in enumerate(VARIANTS):
        for seed in seeds:
            write_run(work_dir / variant / f'seed_{seed}', variant, seed, 100 * number)


def write_run(folder: Path, variant: str, seed: int, stream: int) -> None:
    """A finished run; seeds share a part of their noise, as paired runs do."""
    own, shared = np.random.default_rng(stream + seed), np.random.default_rng(seed)
    _, names, start, ends, gain = VARIANTS[variant]
    (folder / 'train' / 'time' / 'vis_data').mkdir(parents=True)
    _write_losses(folder / 'train' / 'time' / 'vis_data' / 'scalars.json', own)
    head = {'attention_bias_config': {}} if names else {}
    (folder / 'config.py').write_text(f'model = dict(pts_bbox_head={head})\n')
    if names:
        _write_scales(folder / 'train' / 'bias_scale.csv', names, start, ends, own)
    base = shared.normal(0, 0.006)
    subsets = [
        _subset(name, level + base + gain + own.normal(0, 0.003), own)
        for name, level in LEVELS.items()
    ]
    (folder / DETECTIONS).parent.mkdir(parents=True)
    (folder / DETECTIONS).write_text('{}')
    file = (folder / DETECTIONS).stat()
    content = {
        'stamp': f'{file.st_size} {file.st_mtime_ns}',
        'subsets': [asdict(subset) for subset in subsets],
    }
    (folder / CACHE_FILE).write_text(json.dumps(content))
    whole = subsets[0].metrics
    metrics = {PREFIX + name: whole[name] for name in ('mAP', 'NDS', *ERRORS)}
    write_state(
        folder,
        RunState(
            key='key',
            checkpoint='train/epoch_6.pth',
            metrics=metrics,
            seconds={'training': 1500.0, 'test': 90.0},
            device='CPU of a made-up kind, 2 cores',
        ),
    )


def _subset(name: str, mean_ap: float, random: np.random.Generator) -> Subset:
    kind, samples, objects, absent = PARTS[name]
    errors = {key: round(value + random.normal(0, 0.01), 4) for key, value in ERRORS.items()}
    small = {
        f'AP {label}': 0.0 if label in absent else mean_ap * 0.8 + random.normal(0, 0.01)
        for label in SMALL_OBJECTS
    }
    score = 0.5 * mean_ap + 0.1 * sum(1 - min(1, value) for value in errors.values())
    return Subset(
        name, kind, samples, objects, absent, {'mAP': mean_ap, 'NDS': score, **errors, **small}
    )


def _write_losses(path: Path, random: np.random.Generator) -> None:
    steps = np.arange(10, ITERATIONS + 1, 10)
    losses = 9 + 3 * np.exp(-steps / 80) + random.normal(0, 0.25, len(steps))
    rows = [
        json.dumps({'step': int(step), 'loss': loss})
        for step, loss in zip(steps, losses, strict=True)
    ]
    path.write_text('\n'.join(rows) + '\n{"step": 37')  # its last line cut off


def _write_scales(
    path: Path,
    names: tuple[str, ...],
    start: float,
    ends: tuple[float, ...],
    random: np.random.Generator,
) -> None:
    history = BiasScaleHistory(path, names)
    history.begin(0)
    targets = [end + random.normal(0, 0.05) * (end != start) for end in ends]
    for iteration in range(0, ITERATIONS + 1, 10):
        way = 1 - np.exp(-iteration / 120)
        scales = tuple(start + (target - start) * way for target in targets)
        history.append(BiasScaleRecord(iteration, 1, scales, (-np.inf, np.inf)))
