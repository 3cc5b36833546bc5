"""The samples of a dataset as scenes: which to picture, also by the tools' command lines."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmdet3d.registry import DATASETS
from mmdet3d.structures import Det3DDataSample
from mmengine.config import DictAction
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope

from ..datasets.nuscenes_dataset import inner_datasets
from ..datasets.nuscenes_layout import scenes_of_samples
from ..problem import Problem
from ..runs.checkpoint_check import build_tested_model, check_checkpoint_file
from ..runs.data_check import check_config_data
from ..runs.preflight import ProblemsFound, stop_on
from ..runs.run_options import load_config, positive, set_modality
from .scene import Scene, scene_from_sample


class DatasetScenes:
    """Scenes of a dataset's samples, with captions.

    Args:
        dataset: a dataset in the format of MMDetection3D 1.x, or a wrapper around one that passes
            ``get_data_info`` on (``CBGSDataset``).
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._scenes: dict[str, dict] = {}
        for inner in inner_datasets(dataset):
            if isinstance(inner, BaseDataset):
                tables = Path(inner.data_root or '') / inner.metainfo.get('version', '')
                with suppress(FileNotFoundError):  # used with its info files alone
                    self._scenes.update(scenes_of_samples(tables))

    def token(self, index: int) -> str:
        """The token of a sample; empty where it has none."""
        return self.dataset.get_data_info(index).get('token') or ''

    def choose(self, samples: Sequence[str] | None, count: int) -> list[int]:
        """The numbers of the samples of these numbers or tokens, or of ``count`` samples.

        Raises:
            ProblemsFound: If a sample is not in the dataset.
        """
        length = len(self.dataset)
        if samples is None:
            return spread_samples(length, 1, count)
        places = {str(index): index for index in range(length)}
        if not places.keys() >= set(samples):
            places = {self.token(index): index for index in range(length)} | places
        unknown = [sample for sample in samples if sample not in places]
        if unknown:
            remedy = f'give sample tokens of this split, or numbers from 0 to {length - 1}'
            what = f'--samples {" ".join(unknown)}: there are no such samples'
            raise ProblemsFound([Problem(what, remedy)])
        return [places[sample] for sample in samples]

    def load(self, index: int) -> dict[str, Any]:
        """What the pipeline makes of a sample; ValueError if it leaves nothing of it."""
        # In training, __getitem__ takes another sample where the pipeline leaves nothing.
        example = getattr(self.dataset, 'prepare_data', self.dataset.__getitem__)(index)
        if example is None:
            raise ValueError(f'sample {index}: the pipeline left nothing of it to draw')
        return example

    def scene(self, index: int, inputs: Mapping[str, Any], data_sample: Det3DDataSample) -> Scene:
        """A sample's scene, see :func:`scene_from_sample`, with its nuScenes scene as title.

        Where the dataset has no tables, the LiDAR file's name is the title.
        """
        info, token = self.dataset.get_data_info(index), self.token(index)
        title = Path(info.get('lidar_points', {}).get('lidar_path', '')).name
        if token in self._scenes:
            title = '{name}: {description}'.format(**self._scenes[token])
        scene = scene_from_sample(inputs, data_sample, self.dataset.metainfo['classes'])
        subtitle = f'sample {index}' + (f', token {token}' if token else '')
        return replace(scene, title=title, subtitle=subtitle)


def spread_samples(dataset_length: int, interval: int, max_samples: int | None) -> list[int]:
    """Numbers of every ``interval``-th sample, thinned evenly to at most ``max_samples`` if given.

    Raises:
        ValueError: if ``interval`` or ``max_samples`` is below 1.
    """
    if interval < 1 or (max_samples is not None and max_samples < 1):
        raise ValueError(
            f'interval and max_samples must be at least 1, got {interval} and {max_samples}'
        )
    candidates = range(0, dataset_length, interval)
    count = min(len(candidates), max_samples or len(candidates))
    return [candidates[number * len(candidates) // count] for number in range(count)]


def picture_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of both picture tools; lacks ``checkpoint`` and ``--out-dir``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', help='config file')
    add('--split', choices=('train', 'val', 'test'), default='test')
    add('--samples', '--indices', nargs='+', help='numbers or tokens of the samples to draw')
    number = 'without --samples: so many, spread evenly (default: %(default)s)'
    add('--count', '--max-samples', type=positive(int), help=number)
    add('--score-thr', type=float, default=0.3, help='least score that is drawn')
    add('--bev-range', type=positive(float), help="half a side of the bird's-eye view, metres")
    add('--modality', choices=['LC', 'L', 'C'], help='sensors that see anything, as in test.py')
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='e.g. cuda:1')
    add('--cfg-options', nargs='+', action=DictAction, help='override settings, as in test.py')
    return parser


def open_scenes(args: argparse.Namespace) -> tuple[Any, DatasetScenes, list[int]]:
    """The model, None without a checkpoint, the dataset, and the numbers of the samples to draw.

    Raises:
        ProblemsFound: If config, data, checkpoint or samples are not there.
        CheckpointError: If the checkpoint is damaged, unsafe to read or of another model.
    """
    config = load_config(args.config, args.cfg_options)
    set_modality(config, args.modality)
    stop_on(check_checkpoint_file(args.checkpoint))
    stop_on(check_config_data(config, splits=(args.split,), evaluates=False))
    init_default_scope(config.get('default_scope', 'mmdet3d'))
    scenes = DatasetScenes(DATASETS.build(config[f'{args.split}_dataloader'].dataset))
    indices = scenes.choose(args.samples, args.count)
    if args.checkpoint is None:
        return None, scenes, indices
    return build_tested_model(config, args.checkpoint, args.device), scenes, indices
