"""The samples of a dataset as scenes: which to picture, and what they are called."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmdet3d.structures import Det3DDataSample
from mmengine.dataset import BaseDataset

from ..datasets.nuscenes_dataset import inner_datasets
from ..datasets.nuscenes_layout import scenes_of_samples
from ..problem import Problem
from ..runs.preflight import ProblemsFound
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
        classes = self.dataset.metainfo['classes']
        return replace(
            scene_from_sample(inputs, data_sample, classes),
            title=title,
            subtitle=f'sample {index}' + (f', token {token}' if token else ''),
        )


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
