"""The samples of a dataset as scenes: which to picture, and what they are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet3d.structures import Det3DDataSample
from mmengine.dataset import BaseDataset

from ..problem import Problem
from ..runs.preflight import ProblemsFound
from .scene import ImageSource, Scene, scene_from_sample


class DatasetScenes:
    """Scenes of a dataset's samples, with captions.

    Args:
        dataset: a dataset in the format of MMDetection3D 1.x, or a wrapper around one that passes
            ``get_data_info`` on (``CBGSDataset``).
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        inner = dataset
        while not isinstance(inner, BaseDataset) and hasattr(inner, 'dataset'):
            inner = inner.dataset
        self._titles = _scene_titles(
            Path(inner.data_root or '') / inner.metainfo.get('version', '')
        )

    def token(self, index: int) -> str:
        """The token of a sample; empty where it has none."""
        return self.dataset.get_data_info(index).get('token') or ''

    def choose(self, samples: Sequence[str] | None, count: int) -> list[int]:
        """The numbers of the samples to picture.

        Args:
            samples: Numbers or tokens; None for ``count`` samples spread over the dataset.
            count: At least 1.

        Raises:
            ProblemsFound: If a sample is not in the dataset.
        """
        length = len(self.dataset)
        if samples is None:
            return spread_samples(length, 1, count)
        places = {str(index): index for index in range(length)}
        if not places.keys() >= set(samples):
            places = {**{self.token(index): index for index in range(length)}, **places}
        unknown = [sample for sample in samples if sample not in places]
        if unknown:
            remedy = f'give sample tokens of this split, or numbers from 0 to {length - 1}'
            what = f'--samples {" ".join(unknown)}: there are no such samples'
            raise ProblemsFound([Problem(what, remedy)])
        return [places[sample] for sample in samples]

    def load(self, index: int) -> dict[str, Any]:
        """What the pipeline makes of a sample: ``inputs`` and ``data_samples``.

        Raises:
            ValueError: If it leaves nothing of it.
        """
        prepare = getattr(self.dataset, 'prepare_data', self.dataset.__getitem__)
        example = prepare(index)
        if example is None:
            raise ValueError(f'sample {index}: the pipeline left nothing of it to draw')
        return example

    def scene(
        self,
        index: int,
        inputs: Mapping[str, Any],
        data_sample: Det3DDataSample,
        image_source: ImageSource = 'input',
    ) -> Scene:
        """A sample's scene; arguments as for :func:`scene_from_sample`.

        The title is the nuScenes scene's name and description, or the LiDAR file's name where the
        dataset has no tables.
        """
        token = self.token(index)
        lidar = self.dataset.get_data_info(index).get('lidar_points', {}).get('lidar_path', '')
        return scene_from_sample(
            inputs,
            data_sample,
            self.dataset.metainfo['classes'],
            self._titles.get(token, Path(lidar).name),
            f'sample {index}' + (f', token {token}' if token else ''),
            image_source,
        )


def _scene_titles(tables: Path) -> dict[str, str]:
    """From sample token to ``'scene-0061: Parked truck, ...'``; empty where there are no tables.

    A dataset may be used with its info files alone.
    """
    try:
        scenes, samples = (
            json.loads((tables / f'{name}.json').read_text()) for name in ('scene', 'sample')
        )
    except FileNotFoundError:
        return {}
    titles = {scene['token']: f'{scene["name"]}: {scene["description"]}' for scene in scenes}
    return {sample['token']: titles[sample['scene_token']] for sample in samples}


def spread_samples(dataset_length: int, interval: int, max_samples: int | None) -> list[int]:
    """Which samples to picture: every ``interval``-th, thinned evenly to at most ``max_samples``.

    Args:
        dataset_length: number of samples.
        interval: at least 1.
        max_samples: at least 1, or None for no limit.

    Returns:
        Increasing sample numbers, spread over the whole dataset.

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
