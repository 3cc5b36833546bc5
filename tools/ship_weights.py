r"""Make weights that come with the package out of a trained checkpoint.

    python tools/ship_weights.py cmt_tiny CONFIG CHECKPOINT --scores LC=DIR L=DIR \
        --runs pretraining=DIR training=DIR

Writes the state dict in half precision, without the optimizer's state, to
`projects/cmt_bias/weights/NAME.pth`; beside it `NAME.json` with sha256, size, config and the
scores of the tests in the given work folders, and `NAME.csv` with the course of the trainings.
"""

import argparse
import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmt_bias.atomic_file import write_atomically
from cmt_bias.checkpoints import load_checkpoint_safely
from cmt_bias.checkpoints.shipped_weights import FOLDER
from cmt_bias.metrics.nuscenes_metric_table import parse_nuscenes_metrics


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', help='of the weights: cmt_bias://NAME')
    parser.add_argument('config', help='config file of the training')
    parser.add_argument('checkpoint', type=Path, help='checkpoint')
    parser.add_argument(
        '--scores', nargs='+', default=[], help='NAME=FOLDER: the work folder of a test'
    )
    parser.add_argument(
        '--runs',
        nargs='+',
        default=[],
        help='NAME=FOLDER: the work folder of a training, in order',
    )
    parser.add_argument('--note', default='', help='kept in the record')
    parser.add_argument('--out-dir', type=Path, default=FOLDER, help=f'default: {FOLDER}')
    return parser.parse_args()


def newest_scores(folder: Path) -> dict[str, float]:
    """mAP, NDS and the AP of each class, by the newest test in a work folder.

    Raises:
        FileNotFoundError: If there is no test with nuScenes metrics.
    """
    for file in sorted(folder.glob('*/*.json'), key=lambda file: file.stat().st_mtime)[::-1]:
        scores = parse_nuscenes_metrics(json.loads(file.read_text()))
        for found in scores.values():
            by_class = {f'AP of {name}': value for name, value in found.class_ap.items()}
            return {
                key: round(value, 4)
                for key, value in dict(mAP=found.mean_ap, NDS=found.nds, **by_class).items()
            }
    raise FileNotFoundError(f'{folder} has no nuScenes metrics; test the checkpoint there')


def training_course(run_dir: Path) -> list[list]:
    """Epoch, last iteration, and means of an epoch of a run: learning rate, loss and so on."""
    rows = {}
    for file in sorted(run_dir.glob('*/vis_data/scalars.json')):  # a resumed run has several
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                rows[entry['step']] = entry
    epochs: dict[int, list[dict]] = {}
    for entry in rows.values():
        epochs.setdefault(entry['epoch'], []).append(entry)
    course: list[list] = []
    for epoch, entries in sorted(epochs.items()):
        means = [
            sum(entry[key] for entry in entries) / len(entries)
            for key in ('lr', 'loss', 'grad_norm', 'time')
        ]
        course.append([epoch, entries[-1]['step'], *(f'{value:.4g}' for value in means)])
    return course


def courses(runs: Sequence[str]) -> str:
    """The course of trainings, given as NAME=FOLDER, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    columns = ['epoch', 'iteration', 'lr', 'loss', 'grad_norm', 'seconds_per_iteration']
    writer.writerow(['run', *columns])
    for name, folder in (run.split('=', 1) for run in runs):
        writer.writerows([name, *row] for row in training_course(Path(folder)))
    return text.getvalue()


def write_weights(
    path: Path, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any], record: Mapping
) -> None:
    """Write weights in half precision, and their record with its `sha256` beside them as JSON.

    Raises:
        ValueError: If a value is not finite in half precision; it names the parameter.
    """
    halved = {}
    for name, value in state_dict.items():
        halved[name] = value.half() if value.is_floating_point() else value
        if not torch.isfinite(halved[name]).all():
            raise ValueError(f"'{name}' has values that half precision cannot hold")
    buffer = io.BytesIO()
    torch.save(dict(meta=dict(meta), state_dict=halved), buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    text = json.dumps(dict(record, sha256=digest, bytes=len(content)), indent=2)
    write_atomically(path, content)
    write_atomically(path.with_suffix('.json'), text.encode() + b'\n')


def main() -> None:
    """Write the three files."""
    args = parse_args()
    checkpoint = load_checkpoint_safely(args.checkpoint, map_location='cpu')
    meta = checkpoint['meta']
    record = dict(
        config=args.config,
        epochs=meta['epoch'],
        iterations=meta['iter'],
        note=args.note,
        scores={
            name: newest_scores(Path(folder))
            for name, folder in (text.split('=', 1) for text in args.scores)
        },
    )
    classes = dict(classes=meta['dataset_meta']['classes'])
    path = args.out_dir / f'{args.name}.pth'
    write_weights(path, checkpoint['state_dict'], dict(dataset_meta=classes), record)
    write_atomically(path.with_suffix('.csv'), courses(args.runs).encode())
    print(f'{path}: {path.stat().st_size / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
