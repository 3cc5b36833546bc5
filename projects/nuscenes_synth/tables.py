"""Rows of the nuScenes v1.0 tables."""

import hashlib
from typing import Any

from .catalog import ATTRIBUTES, CATEGORIES
from .rig import CAMERAS, LIDAR

Row = dict[str, Any]

TABLE_NAMES = (
    'category',
    'attribute',
    'visibility',
    'instance',
    'sensor',
    'calibrated_sensor',
    'ego_pose',
    'log',
    'scene',
    'sample',
    'sample_data',
    'sample_annotation',
    'map',
)

# Lower bounds of the visible share of an object, all cameras together.
VISIBILITY_LEVELS = ((0.8, '4', 'v80-100'), (0.6, '3', 'v60-80'), (0.4, '2', 'v40-60'))
LOWEST_VISIBILITY = ('1', 'v0-40')


def make_token(*parts: object) -> str:
    """Return the 32 hexadecimal digits that name a row, a function of ``parts`` alone."""
    return hashlib.md5('/'.join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def visibility_token(visible_share: float) -> str:
    """Return the token of the visibility level that a share in [0, 1] falls into."""
    for lower_bound, token, _ in VISIBILITY_LEVELS:
        if visible_share >= lower_bound:
            return token
    return LOWEST_VISIBILITY[0]


def shared_rows() -> dict[str, list[Row]]:
    """Rows of the tables that are the same in every dataset."""
    levels = [(token, level) for _, token, level in VISIBILITY_LEVELS] + [LOWEST_VISIBILITY]
    return {
        'category': [
            {
                'token': make_token('category', name),
                'name': name,
                'description': f'Synthetic {name}.',
            }
            for name in CATEGORIES
        ],
        'attribute': [
            {'token': make_token('attribute', name), 'name': name, 'description': description}
            for name, description in ATTRIBUTES.items()
        ],
        'visibility': [
            {
                'token': token,
                'level': level,
                'description': 'Share of the object that all cameras together see, in per cent.',
            }
            for token, level in sorted(levels)
        ],
        'sensor': [
            {
                'token': make_token('sensor', calibration.channel),
                'channel': calibration.channel,
                'modality': 'lidar' if calibration is LIDAR else 'camera',
            }
            for calibration in (*CAMERAS, LIDAR)
        ],
    }


def calibrated_sensor_rows(scene_token: str, width: int, height: int) -> list[Row]:
    """Rows of the rig as mounted in one scene, for images of ``width`` x ``height``."""
    rows: list[Row] = [
        {
            'token': make_token(scene_token, 'calibrated_sensor', camera.channel),
            'sensor_token': make_token('sensor', camera.channel),
            'translation': list(camera.translation),
            'rotation': list(camera.rotation),
            'camera_intrinsic': camera.intrinsics(width, height).tolist(),
        }
        for camera in CAMERAS
    ]
    rows.append(
        {
            'token': make_token(scene_token, 'calibrated_sensor', LIDAR.channel),
            'sensor_token': make_token('sensor', LIDAR.channel),
            'translation': list(LIDAR.translation),
            'rotation': list(LIDAR.rotation),
            'camera_intrinsic': [],
        }
    )
    return rows


def link_in_order(rows: list[Row]) -> None:
    """Fill ``prev`` and ``next`` of rows that follow each other in time."""
    for position, row in enumerate(rows):
        row['prev'] = rows[position - 1]['token'] if position else ''
        row['next'] = rows[position + 1]['token'] if position + 1 < len(rows) else ''
