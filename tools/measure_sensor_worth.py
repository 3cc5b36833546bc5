"""Measure what each sensor of a synthetic dataset is worth, without a detector.

    python tools/measure_sensor_worth.py data/synthetic

A forest of random trees learns from the training scenes, and says on the validation scenes, the
class and the distance of an annotated object: from the LiDAR points in its box, from the pixels
of the image in the box's outline, and from both. Neither gets the size of the box.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.geometry_utils import view_points
from nuscenes.utils.splits import create_splits_scenes
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from tabulate import tabulate

CROP = 16  # pixels along either side of an image crop
HEIGHT_BINS = np.linspace(-1.0, 4.0, 21)  # metres above the lowest point
CONDITIONS = ('night', 'rain', 'fog')
DISTANCES = ((0, 12), (12, 20), (20, 30), (30, 60))


def lidar_features(points: np.ndarray) -> np.ndarray:
    """Describe (N, 4) points of an object, x forward, by extents, heights and intensity."""
    xyz, intensity = points[:, :3], points[:, 3]
    extent = xyz.max(axis=0) - xyz.min(axis=0)
    heights = np.histogram(xyz[:, 2] - xyz[:, 2].min(), HEIGHT_BINS, density=len(xyz) > 0)[0]
    widths = [np.ptp(xyz[np.abs(xyz[:, 2] - z) < 0.25, :2], axis=0) if
              (np.abs(xyz[:, 2] - z) < 0.25).any() else np.zeros(2) for z in np.arange(-2, 2.1, 0.5)]
    spread = [xyz.std(axis=0), np.array([intensity.mean(), intensity.std(), len(xyz)])]
    return np.concatenate([extent, xyz.max(axis=0), xyz.min(axis=0), *spread, heights, *widths])


def image_features(image: np.ndarray, outline: np.ndarray) -> np.ndarray | None:
    """Describe the pixels in (2, 8) projected corners by a small crop and its place."""
    height, width = image.shape[:2]
    x0, y0 = np.maximum(np.floor(outline.min(axis=1)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(outline.max(axis=1)), (width, height)).astype(int)
    if x1 - x0 < 1 or y1 - y0 < 1:
        return None
    crop = cv2.resize(image[y0:y1, x0:x1], (CROP, CROP), interpolation=cv2.INTER_AREA)
    place = [x0 / width, x1 / width, y0 / height, y1 / height, (x1 - x0) / width]
    return np.concatenate([crop.ravel() / 255.0, place])


def sample_objects(
    nusc: NuScenes, sample: dict, condition: str, image_width: int
) -> list[tuple[str, float, str, np.ndarray, np.ndarray]]:
    """Class, distance, condition and features of the objects in one keyframe."""
    path, boxes, _ = nusc.get_sample_data(sample['data']['LIDAR_TOP'])
    cloud = np.fromfile(path, dtype=np.float32).reshape(-1, 5)[:, :4]
    by_token = {}
    for box in boxes:
        name = category_to_detection_name(box.name)
        local = (cloud[:, :3] - box.center) @ box.rotation_matrix
        inside = (np.abs(local) <= box.wlh[[1, 0, 2]] / 2).all(axis=1)
        if name and inside.any():
            points = np.concatenate([local[inside], cloud[inside, 3:]], axis=1)
            by_token[box.token] = (name, float(np.hypot(*box.center[:2])), lidar_features(points))
    found = {}
    for channel, token in sample['data'].items():
        if not channel.startswith('CAM'):
            continue
        path, boxes, intrinsics = nusc.get_sample_data(token)
        image = cv2.imread(path)
        scale = image_width / image.shape[1]
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for box in boxes:
            corners = box.corners()
            if box.token not in by_token or corners[2].min() < 0.5:
                continue
            outline = scale * view_points(corners, intrinsics, normalize=True)[:2]
            center = outline.mean(axis=1)
            if (center < 0).any() or (center >= image.shape[1::-1]).any():
                continue
            features = image_features(image, outline)
            if features is not None:
                found[box.token] = features
    return [(n, d, condition, found[t] * 0 + found[t], lidar) for t, (n, d, lidar) in by_token.items() if t in found]


def read_objects(nusc: NuScenes, split: str, image_width: int) -> list[tuple]:
    """Objects of all keyframes of a split."""
    names = set(create_splits_scenes()[split])
    objects = []
    for sample in nusc.sample:
        scene = nusc.get('scene', sample['scene_token'])
        if scene['name'] in names:
            words = scene['description'].lower()
            condition = next((word for word in CONDITIONS if word in words), 'day')
            objects.extend(sample_objects(nusc, sample, condition, image_width))
    return objects


def measure(train: list[tuple], val: list[tuple], jobs: int) -> list[list[object]]:
    """Rows of the table: subset, objects, accuracies and median errors of distance."""
    def stack(objects, index):
        return np.stack([o[index] for o in objects]).astype(np.float32)
    inputs = {
        'LiDAR': (stack(train, 4), stack(val, 4)),
        'camera': (stack(train, 3), stack(val, 3)),
    }
    inputs['both'] = tuple(np.concatenate(pair, axis=1) for pair in zip(*inputs.values()))
    labels, truth = ([o[0] for o in objects] for objects in (train, val))
    truth, distance = np.array(truth), np.array([o[1] for o in val])
    condition = np.array([o[2] for o in val])
    right, predicted = {}, {}
    for name, (known, asked) in inputs.items():
        forest = ExtraTreesClassifier(150, min_samples_leaf=2, n_jobs=jobs, random_state=0, max_features=60 if name!='LiDAR' else 'sqrt')
        predicted[name] = forest.fit(known, labels).predict(asked)
        right[name] = predicted[name] == truth
    subsets = {'all': np.ones(len(val), dtype=bool)}
    subsets |= {c: condition == c for c in ('day', *CONDITIONS)}
    subsets |= {f'{a} to {b} m': (distance >= a) & (distance < b) for a, b in DISTANCES}
    subsets |= {c: truth == c for c in sorted(set(truth))}
    rows = [[s, int(m.sum()), *(float(right[n][m].mean()) for n in inputs)] for s, m in subsets.items() if m.any()]
    for n in inputs:
        cs=sorted(set(truth)); print(n); print(tabulate([[c,*(int(((truth==c)&(predicted[n]==d)).sum()) for d in cs)] for c in cs],headers=['',*[c[:5] for c in cs]]))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('root', type=Path)
    parser.add_argument('--version', default='v1.0-trainval')
    parser.add_argument('--image-width', type=int, default=256)
    parser.add_argument('--jobs', type=int, default=1)
    arguments = parser.parse_args()
    nusc = NuScenes(arguments.version, str(arguments.root), verbose=False)
    train, val = (read_objects(nusc, s, arguments.image_width) for s in ('train', 'val'))
    rows = measure(train, val, arguments.jobs)
    sys.stdout.write(tabulate(rows, headers=['subset', 'objects', 'LiDAR', 'camera', 'both'], floatfmt='.2f') + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
