"""What a picture says about its sample: scene, number and token."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.dataset import BaseDataset


def read_scene_titles(data_root: str | Path, version: str) -> dict[str, str]:
    """Scene names and descriptions from the nuScenes tables.

    Args:
        data_root: the dataset's folder.
        version: folder of the tables in it, e.g. ``v1.0-trainval``.

    Returns:
        From sample token to ``'scene-0061: Parked truck, ...'``; empty where the folder holds no
        tables (a dataset may be used with its info files alone).
    """
    tables = Path(data_root) / version
    if not (tables / 'scene.json').is_file() or not (tables / 'sample.json').is_file():
        return {}
    scenes = json.loads((tables / 'scene.json').read_text())
    titles = {scene['token']: f'{scene["name"]}: {scene["description"]}' for scene in scenes}
    samples = json.loads((tables / 'sample.json').read_text())
    return {sample['token']: titles[sample['scene_token']] for sample in samples}


class SampleCaptions:
    """Captions of a dataset's samples.

    Args:
        dataset: a dataset in the format of MMDetection3D 1.x, or a wrapper around one that passes
            ``get_data_info`` on (``CBGSDataset``).
    """

    def __init__(self, dataset: BaseDataset) -> None:
        self.dataset = dataset
        inner = dataset
        while not isinstance(inner, BaseDataset) and hasattr(inner, 'dataset'):
            inner = inner.dataset
        version = inner.metainfo.get('version', '')
        self.scene_titles = read_scene_titles(inner.data_root or '', version) if version else {}

    def title(self, index: int) -> str:
        """The scene's name and description, or the LiDAR file's name where they are not known."""
        info = self.dataset.get_data_info(index)
        lidar_file = Path(info.get('lidar_points', {}).get('lidar_path', '')).name
        return self.scene_titles.get(info.get('token', ''), lidar_file)

    def subtitle(self, index: int) -> str:
        """The sample's number in the dataset and its token."""
        token = self.dataset.get_data_info(index).get('token')
        return f'sample {index}' + (f', token {token}' if token else '')


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
    candidates = list(range(0, dataset_length, interval))
    if max_samples is None or len(candidates) <= max_samples:
        return candidates
    return [candidates[number * len(candidates) // max_samples] for number in range(max_samples)]
