"""Measure what each sensor of a synthetic dataset is worth, without a detector.

    python tools/measure_sensor_worth.py data/synthetic

A forest of random trees learns from the training scenes what an annotated object is and how far
away, and says it on the validation scenes: from the LiDAR points in its box, from the pixels in
the outline of its box, and from both. It is not told the size of the box. Bins, which are
annotated but no detection class, are asked for too.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from nuscenes import NuScenes
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.geometry_utils import view_points
from nuscenes.utils.splits import create_splits_scenes
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from tabulate import tabulate

from cmt_bias.failures.scene_conditions import CONDITION_WORDS, DAY, scene_condition

CROP = 16  # pixels along either side of an image crop
HEIGHT_BINS = np.linspace(0.0, 4.0, 17)  # metres above the lowest point
CONDITIONS = (DAY, *CONDITION_WORDS)
DISTANCES = ((0, 12), (12, 20), (20, 30), (30, 60))  # metres from the LiDAR
TREES = 100
KEYFRAME_STRIDE = 2  # half a second apart they differ little


class ObjectView(NamedTuple):
    """What the sensors record of one object in one keyframe."""

    name: str  # detection class, or 'bin'
    condition: str  # of its scene, most often one of CONDITIONS
    distance: float  # metres from the LiDAR
    points: int  # in its box
    lidar: np.ndarray  # features of its points
    camera: np.ndarray  # features of its pixels


def lidar_features(points: np.ndarray) -> np.ndarray:
    """Describe (N, 4) points of an object, x forward from its middle, and intensity."""
    xyz, intensity = points[:, :3], points[:, 3]
    heights = np.histogram(xyz[:, 2] - xyz[:, 2].min(), HEIGHT_BINS)[0] / len(xyz)
    numbers = (len(xyz), intensity.mean(), intensity.std())
    extremes = (xyz.min(axis=0), xyz.max(axis=0), np.ptp(xyz, axis=0), xyz.std(axis=0))
    return np.concatenate([*extremes, numbers, heights])


def camera_features(image: np.ndarray, outline: np.ndarray) -> np.ndarray | None:
    """Describe the pixels within (2, 8) projected corners by a small crop and its place."""
    height, width = image.shape[:2]
    left, top = np.maximum(np.floor(outline.min(axis=1)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(outline.max(axis=1)), (width, height)).astype(int)
    if right <= left or bottom <= top:
        return None
    crop = image[top:bottom, left:right]
    crop = cv2.resize(crop, (CROP, CROP), interpolation=cv2.INTER_AREA).ravel() / 255.0
    return np.concatenate([crop, (left, right, top, bottom, right - left, bottom - top)])


def object_views(
    nusc: NuScenes, sample: dict[str, Any], condition: str, image_width: int
) -> list[ObjectView]:
    """The objects of one keyframe of which both sensors record something."""
    path, boxes, _ = nusc.get_sample_data(sample['data']['LIDAR_TOP'])
    cloud = np.fromfile(path, dtype=np.float32).reshape(-1, 5)
    by_lidar = {}
    for box in boxes:
        local = (cloud[:, :3] - box.center) @ box.rotation_matrix
        inside = (np.abs(local) <= box.wlh[[1, 0, 2]] / 2).all(axis=1)
        if inside.any():
            points = np.column_stack([local[inside], cloud[inside, 3]])
            distance = float(np.hypot(*box.center[:2]))
            by_lidar[box.token] = distance, len(points), lidar_features(points)
    views = {}
    for channel, token in sample['data'].items():
        if not channel.startswith('CAM'):
            continue
        path, boxes, intrinsics = nusc.get_sample_data(token)
        image = cv2.imread(path)
        scale = image_width / image.shape[1]
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for box in boxes:
            if box.token not in by_lidar or box.corners()[2].min() < 0.5:
                continue
            outline = scale * view_points(box.corners(), intrinsics, normalize=True)[:2]
            features = camera_features(image, outline)
            if features is not None:  # of two cameras that see it, the later counts
                name = category_to_detection_name(box.name) or 'bin'
                of_lidar = by_lidar[box.token]
                views[box.token] = ObjectView(name, condition, *of_lidar, features)
    return list(views.values())


def read_split(nusc: NuScenes, split: str, image_width: int) -> list[ObjectView]:
    """Objects of every :data:`KEYFRAME_STRIDE`-th keyframe of a split."""
    names = set(create_splits_scenes()[split])
    views: list[ObjectView] = []
    for sample in nusc.sample[::KEYFRAME_STRIDE]:
        scene = nusc.get('scene', sample['scene_token'])
        if scene['name'] in names:
            condition = scene_condition(scene['description'])
            views.extend(object_views(nusc, sample, condition, image_width))
    return views


def measure(train: list[ObjectView], val: list[ObjectView]) -> list[list[Any]]:
    """Rows of the table: subset, objects, LiDAR points; accuracies; error of distance."""

    known, table = pd.DataFrame(train), pd.DataFrame(val)
    for views in (known, table):
        views['both'] = [np.concatenate(pair) for pair in views[['lidar', 'camera']].to_numpy()]
    forest = ExtraTreesRegressor(TREES, min_samples_leaf=2, max_features='sqrt', random_state=0)
    forest.fit(np.stack(known['camera']), np.log(known['distance']))
    guess = np.exp(forest.predict(np.stack(table['camera'])))
    table['error'] = (guess - table['distance']).abs()
    sensors = ['lidar', 'camera', 'both']
    for sensor in sensors:  # what it records makes place for whether it tells the class
        forest = ExtraTreesClassifier(TREES, min_samples_leaf=2, random_state=0)
        forest.fit(np.stack(known[sensor]), known['name'])
        table[sensor] = forest.predict(np.stack(table[sensor])) == table['name']

    subsets = {'all': table}
    subsets |= {name: table[table['condition'] == name] for name in CONDITIONS}
    for low, high in DISTANCES:
        inside = table['distance'].between(low, high, inclusive='left')
        subsets[f'{low} to {high} m'] = table[inside]
    subsets |= dict(iter(table.groupby('name')))
    return [
        [name, len(part), int(part['points'].median()), *part[sensors].mean()]
        + [part['error'].median()]
        for name, part in subsets.items()
        if len(part)
    ]


def main() -> None:
    """Read the dataset, measure and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('root', type=Path, help='folder of the dataset')
    parser.add_argument('--version', default='v1.0-trainval')
    parser.add_argument('--image-width', type=int, default=256, help='images are reduced to it')
    arguments = parser.parse_args()
    nusc = NuScenes(arguments.version, str(arguments.root), verbose=False)
    train, val = (read_split(nusc, split, arguments.image_width) for split in ('train', 'val'))
    headers = ['', 'objects', 'LiDAR points', 'LiDAR', 'cameras', 'both', 'distance by cameras, m']
    table = tabulate(measure(train, val), headers, tablefmt='pipe', floatfmt='.2f')
    print(table)


if __name__ == '__main__':
    main()
