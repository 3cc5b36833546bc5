"""What every copy of nuScenes has: its tables, and the splits of each version of them."""

import json
from pathlib import Path

NUSCENES_TABLES = (
    *('attribute', 'calibrated_sensor', 'category', 'ego_pose', 'instance', 'log', 'map'),
    *('sample', 'sample_annotation', 'sample_data', 'scene', 'sensor', 'visibility'),
)

CONVERTED_SPLITS = {
    'v1.0-trainval': {'train': 'train', 'val': 'val'},
    'v1.0-mini': {'train': 'mini_train', 'val': 'mini_val'},
    'v1.0-test': {'test': 'test'},
}
"""Version of the tables -> info file (``nuscenes_infos_<name>.pkl``) -> official split in it."""

EVALUATED_SPLITS = {
    version: splits['val'] for version, splits in CONVERTED_SPLITS.items() if 'val' in splits
}
"""Version of the tables -> the split that mmdet3d's ``NuScenesMetric`` evaluates."""


def read_table(tables: Path, name: str) -> list[dict]:
    """The records of a table in ``<data root>/<version>``, or a FileNotFoundError."""
    path = tables / f'{name}.json'
    if not path.is_file():
        raise FileNotFoundError(
            f"no table '{path}'; set data_root and version to those of the nuScenes data"
        )
    return json.loads(path.read_text(encoding='utf-8'))


def scenes_of_samples(tables: Path) -> dict[str, dict]:
    """The record of its scene for each sample, by the sample's token."""
    scenes = {scene['token']: scene for scene in read_table(tables, 'scene')}
    return {row['token']: scenes[row['scene_token']] for row in read_table(tables, 'sample')}
