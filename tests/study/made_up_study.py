"""The folder of a study with made-up but realistic numbers, as tools/run_study.py leaves it."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from cmt_bias.metrics.subset_evaluation import SMALL_OBJECTS, Subset
from cmt_bias.study.study_config import Question, Study
from cmt_bias.study.study_results import SUBSETS_FILE, run_folder, write_record
from cmt_bias.study.study_run import DETECTIONS, STATE_FILE, RunState

PREFIX = 'NuScenes metric/pred_instances_3d_NuScenes/'
ERRORS = {'mATE': 0.62, 'mASE': 0.31, 'mAOE': 0.74, 'mAVE': 0.93, 'mAAE': 0.28}
# variant: names of its scales, where they start and where they go, change of mAP
VARIANTS = {
    'no_bias': ((), 0.0, (), -0.006),
    'fixed': (('shared',), 2.5, (2.5,), 0.0),
    'learned_from_low': (('shared',), 1.5, (2.1,), 0.012),
    'learned_from_high': (('shared',), 3.5, (3.3,), 0.0),
    'per_modality': (('lidar', 'camera'), 2.5, (3.0, 1.9), 0.0),
}
PARTS = {'whole': 'whole', 'night': 'condition', 'rain': 'condition', '0-20 m': 'distance'}
LEVELS = {'whole': 0.31, 'night': 0.24, 'rain': 0.29, '0-20 m': 0.42}
FAILURES = {'camera_drop_all': -0.05, 'lidar_beams_4': -0.12}
QUESTIONS = (
    Question('Does a bias help?', 'learned_from_low', 'no_bias', claimed=0.018),
    Question('Does it help under failures?', 'learned_from_low', 'no_bias', 'failures'),
    Question('Do sensors differ?', 'per_modality', 'fixed'),
)
ITERATIONS = 360


def write_made_up_study(work_dir: Path, seeds: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
    """A finished study of the variants above."""
    study = Study(
        path=work_dir / 'study.py',
        title='Learned scale of the attention bias',
        variants={name: f'the variant {name}' for name in VARIANTS},
        reference='fixed',
        seeds=seeds,
        failures=('*',),
        questions=QUESTIONS,
    )
    write_record(work_dir, study, 'python /home/me/tools/run_study.py STUDY --work-dir /tmp/DIR')
    for number, variant in enumerate(VARIANTS):
        for seed in seeds:
            write_run(run_folder(work_dir, variant, seed), variant, seed, 100 * number)


def write_run(folder: Path, variant: str, seed: int, stream: int) -> None:
    """A finished run; seeds share a part of their noise, as paired runs do."""
    own, shared = np.random.default_rng(stream + seed), np.random.default_rng(seed)
    names, start, ends, gain = VARIANTS[variant]
    log = folder / 'train' / 'time' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    _write_losses(log, own)
    if names:
        _write_scales(folder / 'train' / 'bias_scale.csv', names, start, ends)
    base = shared.normal(0, 0.006) + gain
    subsets = [
        _subset(name, level + base + own.normal(0, 0.001), own) for name, level in LEVELS.items()
    ]
    (folder / DETECTIONS).parent.mkdir(parents=True)
    (folder / DETECTIONS).write_text('{}')
    file = (folder / DETECTIONS).stat()
    content = {
        'stamp': f'{file.st_size} {file.st_mtime_ns}',
        'subsets': [asdict(subset) for subset in subsets],
    }
    (folder / SUBSETS_FILE).write_text(json.dumps(content))
    whole = subsets[0].metrics
    _write_robustness(folder / 'failures' / 'robustness.csv', whole, bool(names))
    state = RunState(
        key='key',
        checkpoint='train/epoch_6.pth',
        metrics={PREFIX + name: whole[name] for name in ('mAP', 'NDS', *ERRORS)},
        failures_tested=('*',),
        seconds={'train': 1500.0, 'test': 90.0},
        device='CPU of a made-up kind',
    )
    (folder / STATE_FILE).write_text(json.dumps(asdict(state)))


def _subset(name: str, mean_ap: float, random: np.random.Generator) -> Subset:
    small = {f'AP {label}': mean_ap * 0.8 + random.normal(0, 0.01) for label in SMALL_OBJECTS}
    metrics = {'mAP': mean_ap, 'NDS': 0.5 * mean_ap + 0.2, **ERRORS, **small}
    return Subset(name, PARTS[name], 120, 3, 2400, (), metrics)


def _write_losses(path: Path, random: np.random.Generator) -> None:
    steps = np.arange(10, ITERATIONS + 1, 10)
    losses = 9 + 3 * np.exp(-steps / 80) + random.normal(0, 0.25, len(steps))
    rows = [json.dumps({'step': int(s), 'loss': v}) for s, v in zip(steps, losses, strict=True)]
    path.write_text('\n'.join(rows) + '\n{"step": 37')  # its last line cut off


def _write_scales(
    path: Path, names: tuple[str, ...], start: float, ends: tuple[float, ...]
) -> None:
    iterations = np.arange(0, ITERATIONS + 1, 10)
    way = 1 - np.exp(-iterations / 120)
    columns = {
        f'bias_scale/{name}': start + (end - start) * way
        for name, end in zip(names, ends, strict=True)
    }
    pd.DataFrame({'iteration': iterations, 'epoch': 1, **columns}).to_csv(path, index=False)


def _write_robustness(path: Path, whole: dict[str, float], has_router: bool) -> None:
    path.parent.mkdir(parents=True)
    trust = dict(lidar_weight=0.2, camera_weight=-0.1) if has_router else {}
    trust['camera_attention'] = 0.15
    trust['status'] = 'done'
    rows = [dict(failure='clean', mAP=whole['mAP'], NDS=whole['NDS'], **trust)]
    for failure, change in FAILURES.items():
        shift = dict(shift=0.03, fall_spoiled=0.2, fall_elsewhere=0.05) if has_router else {}
        scores = {name: whole[name] + change for name in ('mAP', 'NDS')}
        rows.append(dict(failure=failure, **scores, **trust, **shift))
    columns = ['failure', 'status', 'mAP', 'NDS', 'lidar_weight', 'camera_weight', 'shift']
    columns += ['fall_spoiled', 'fall_elsewhere', 'camera_attention']
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
