r"""Make weights that come with the package out of a trained checkpoint.

    python tools/ship_weights.py cmt_tiny CONFIG CHECKPOINT --scores LC=DIR L=DIR \
        --runs pretraining=DIR training=DIR

Writes the state dict in half precision, without the optimizer's state, to
`projects/cmt_bias/weights/NAME.pth`; beside it `NAME.json` with sha256, size, config and the
scores of the tests in the given work folders, and `NAME.csv` with the course of the trainings.
"""

import argparse
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from cmt_bias.atomic_file import write_atomically
from cmt_bias.checkpoints import load_checkpoint_safely
from cmt_bias.checkpoints.shipped_weights import FOLDER
from cmt_bias.metrics.nuscenes_metric_table import parse_nuscenes_metrics
from cmt_bias.study.study_run import read_test_metrics
from cmt_bias.study.training_curves import read_log


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', help='of the weights: cmt_bias://NAME')
    parser.add_argument('config', help='config file of the training')
    parser.add_argument('checkpoint', type=Path, help='checkpoint')
    folders: dict[str, Any] = dict(nargs='+', type=named_folder, default=[], metavar='NAME=FOLDER')
    parser.add_argument('--scores', **folders, help='work folders of tests')
    parser.add_argument('--runs', **folders, help='work folders of the trainings, in order')
    parser.add_argument('--out-dir', type=Path, default=FOLDER, help=f'default: {FOLDER}')
    return parser.parse_args()


def named_folder(text: str) -> tuple[str, Path]:
    """A name and a folder, of the form NAME=FOLDER."""
    name, folder = text.split('=', 1)
    return name, Path(folder)


def test_scores(folder: Path) -> dict[str, float]:
    """mAP, NDS and the AP of each class, by the newest test in a work folder.

    Raises:
        FileNotFoundError: If there is no test with nuScenes metrics.
    """
    for found in parse_nuscenes_metrics(read_test_metrics(folder)).values():
        by_class = {f'AP of {name}': value for name, value in found.classes['AP'].items()}
        scores = dict(mAP=found.mean_ap, NDS=found.nds, **by_class)
        return {name: round(value, 4) for name, value in scores.items()}
    raise FileNotFoundError(f'{folder} has no nuScenes metrics; test the checkpoint there')


def training_course(run_dir: Path) -> pd.DataFrame:
    """For each epoch of a run its last iteration, and means of learning rate, loss and so on."""
    log = read_log(run_dir).rename(columns=dict(step='iteration', time='seconds_per_iteration'))
    epochs = log.groupby('epoch', as_index=False)
    means = epochs[['lr', 'loss', 'grad_norm', 'seconds_per_iteration']].mean()
    means.insert(1, 'iteration', epochs['iteration'].last()['iteration'])
    return means


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
        scores={name: test_scores(folder) for name, folder in args.scores},
    )
    classes = dict(classes=meta['dataset_meta']['classes'])
    path = args.out_dir / f'{args.name}.pth'
    write_weights(path, checkpoint['state_dict'], dict(dataset_meta=classes), record)
    if args.runs:
        courses = pd.concat({name: training_course(folder) for name, folder in args.runs})
        courses = courses.droplevel(1).rename_axis('run')
        write_atomically(path.with_suffix('.csv'), courses.to_csv(float_format='%.4g').encode())
    print(f'{path}: {path.stat().st_size / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
