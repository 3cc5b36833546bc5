"""Measure what each sensor of a synthetic dataset is worth, without a detector.

    python tools/measure_sensor_worth.py data/synthetic

A forest of random trees learns from the training scenes what an annotated object is and how far
away, and says it on the validation scenes: from the LiDAR points in its box, from the pixels in
the outline of its box, and from both. It is not told the size of the box. Bins, which are
annotated but no detection class, are asked for too.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class ObjectView:
    """What the sensors record of one object in one keyframe.

    Attributes:
        name: detection class, or ``bin``.
        condition: of its scene, most often one of :data:`CONDITIONS`.
        distance: metres from the LiDAR.
        num_points: LiDAR points in its box.
        lidar: features of its points.
        camera: features of its pixels.
    """

    name: str
    condition: str
    distance: float
    num_points: int
    lidar: np.ndarray
    camera: np.ndarray


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
            by_lidar[box.token] = points, float(np.hypot(*box.center[:2]))
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
                points, distance = by_lidar[box.token]
                lidar = lidar_features(points)
                views[box.token] = ObjectView(
                    name, condition, distance, len(points), lidar, features
                )
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

    def features(views: list[ObjectView], sensors: tuple[str, ...]) -> np.ndarray:
        return np.array([np.concatenate([getattr(v, s) for s in sensors]) for v in views])

    table = pd.DataFrame([(v.name, v.condition, v.distance, v.num_points) for v in val])
    table.columns = pd.Index(['name', 'condition', 'distance', 'points'])
    sensors = {'lidar': ('lidar',), 'camera': ('camera',), 'both': ('lidar', 'camera')}
    for name, read in sensors.items():
        forest = ExtraTreesClassifier(TREES, min_samples_leaf=2, random_state=0)
        forest.fit(features(train, read), [view.name for view in train])
        table[name] = forest.predict(features(val, read)) == table['name']
    forest = ExtraTreesRegressor(TREES, min_samples_leaf=2, max_features='sqrt', random_state=0)
    forest.fit(features(train, ('camera',)), [np.log(view.distance) for view in train])
    guess = np.exp(forest.predict(features(val, ('camera',))))
    table['error'] = (guess - table['distance']).abs()

    subsets = {'all': table}
    subsets.update({name: table[table['condition'] == name] for name in CONDITIONS})
    for low, high in DISTANCES:
        inside = table['distance'].between(low, high, inclusive='left')
        subsets[f'{low} to {high} m'] = table[inside]
    subsets.update(dict(list(table.groupby('name'))))
    return [
        [name, len(part), int(part['points'].median()), *part[list(sensors)].mean()]
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
