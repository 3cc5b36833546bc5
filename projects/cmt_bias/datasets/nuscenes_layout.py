"""What every copy of nuScenes has: its tables, and the splits of each version of them."""

NUSCENES_TABLES = (
    'attribute',
    'calibrated_sensor',
    'category',
    'ego_pose',
    'instance',
    'log',
    'map',
    'sample',
    'sample_annotation',
    'sample_data',
    'scene',
    'sensor',
    'visibility',
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
