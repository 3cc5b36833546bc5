"""Can an annotation file be read by mmdet3d 1.4, and trained on? Asked before training."""

import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmdet3d.datasets import NuScenesDataset

from ..config_type import type_name
from ..plain_pickle import InfoFileError, load_info_file
from ..problem import Problem
from .sensor_files import UsedData

_LISTED_FRAMES = 5
CLASSES: tuple[str, ...] = NuScenesDataset.METAINFO['classes']


def _command_that_makes(path: str) -> str:
    root = osp.dirname(path) or '.'
    return (
        f'make it: python tools/create_data.py nuscenes --root-path {root} --out-dir {root} '
        '--extra-tag nuscenes'
    )


def read_info_file(path: str) -> dict[str, Any] | Problem:
    """Content of an info file of the current format (such as ``nuscenes_infos_train.pkl``).

    Or why there is none: the file does not exist, is no pickle of plain data, is of the format
    before mmdet3d 1.1, or has no sample.
    """
    remedy = _command_that_makes(path)
    if not osp.isfile(path):
        return Problem(f"the info file '{path}' does not exist", remedy)
    try:
        infos = load_info_file(path)
    except (OSError, InfoFileError) as error:
        return Problem.of_error(error, remedy)
    keys = set(infos) if isinstance(infos, dict) else set()
    if {'metainfo', 'data_list'} <= keys:
        return infos if infos['data_list'] else Problem(f"'{path}' has no sample", remedy)
    if isinstance(infos, list) or 'infos' in keys:
        what = f"the info file '{path}' has the old format, of mmdet3d before 1.1"
        convert = (
            'convert it: python tools/dataset_converters/update_infos_to_v2.py --dataset nuscenes '
            f"--pkl-path '{path}' --out-dir '{osp.dirname(path) or '.'}' (of mmdet3d's "
            'repository; it reads ./data/nuscenes), or '
        )
        return Problem(what, convert + remedy)
    return Problem(f"'{path}' is no info file: it has no 'metainfo' and 'data_list'", remedy)


def check_frames(infos: Mapping, path: str, used: UsedData, batch_size: int = 1) -> list[Problem]:
    """Look at all frames for what is ``used`` and fits into batches; opens no sensor files."""
    remedy = _command_that_makes(path)
    categories = infos['metainfo'].get('categories') or {}
    moved = {n: i for n, i in categories.items() if n in CLASSES and CLASSES.index(n) != i}
    if moved:
        what = f"'{path}' numbers classes otherwise than mmdet3d's NuScenesDataset: {moved}"
        return [Problem(what, remedy)]
    frames: Sequence[Mapping] = infos['data_list']
    tokens = defaultdict(list)
    for number, frame in enumerate(frames):
        for fault in _faults_of_frame(frame, used):
            tokens[fault].append(str(frame.get('token', number)))
    problems = []
    for fault, found in tokens.items():
        named = ', '.join(found[:_LISTED_FRAMES]) + ' and others' * (len(found) > _LISTED_FRAMES)
        what = f"'{path}': {fault} in {len(found)} of {len(frames)} frames: {named}"
        source = 'correct the source that this file was made from, then '
        problems.append(Problem(what, source + remedy))
    if used.images and batch_size > 1 and not problems:
        cameras = Counter(len(frame['images']) for frame in frames).most_common()
        if len(cameras) > 1:
            counts = ', '.join(f'{number} in {count} frames' for number, count in cameras)
            what = f"the frames of '{path}' differ in their number of cameras: {counts}"
            one = f'set batch_size=1 instead of {batch_size}, or leave the frames with fewer out'
            problems.append(Problem(what, one))
    return problems


def _faults_of_frame(frame: Mapping, used: UsedData) -> Iterator[str]:
    """What is wrong with the calibration and the annotations of one frame, each kind once."""
    wanted = ['sample_idx'] + ['lidar_points'] * used.points + ['images'] * used.images
    missing = [key for key in wanted if key not in frame]
    if used.points and 'lidar_points' in frame:
        keys = ('lidar_path', 'num_pts_feats')
        missing += [f'lidar_points.{key}' for key in keys if key not in frame['lidar_points']]
    sweeps = [sweep.get('lidar_points', {}) for sweep in frame.get('lidar_sweeps', ())]
    motions = [sweep.get('lidar2sensor') for sweep in sweeps[: used.sweeps]]
    if any(motion is None for motion in motions):
        missing.append('lidar_sweeps.lidar_points.lidar2sensor')
    cameras: Mapping[str, Mapping] = frame.get('images', {}) if used.images else {}
    for name, camera in cameras.items():
        keys = ('img_path', 'cam2img', 'lidar2cam')
        missing += [f'images.{name}.{key}' for key in keys if key not in camera]
    if missing:
        yield f'no {", ".join(missing)}'
        return
    for key in ('cam2img', 'lidar2cam'):
        if not all(_is_finite(camera[key]) for camera in cameras.values()):
            yield f'NaN or infinite values in {key} of a camera'
    if not all(map(_is_finite, motions)):
        yield 'NaN or infinite values in lidar2sensor of a sweep'
    if frame.get('instances'):
        yield from _faults_of_annotations(frame['instances'], used.annotation_keys)


def _faults_of_annotations(instances: Sequence[Mapping], keys: Sequence[str]) -> Iterator[str]:
    missing = [key for key in keys if any(key not in instance for instance in instances)]
    if missing:
        yield f'annotations without {missing[0]}'
        return
    unknown = {row['bbox_label_3d'] for row in instances} - {*range(-1, len(CLASSES))}
    if unknown:
        yield f'labels {sorted(unknown)} that are not -1 (no class) to {len(CLASSES) - 1}'
    speeds = [row['velocity'] if 'velocity' in keys else (0, 0) for row in instances]
    try:
        boxes = np.array([row['bbox_3d'] for row in instances], np.float64).reshape(-1, 7)
        velocities = np.array(speeds, np.float64).reshape(-1, 2)
    except (ValueError, TypeError):
        yield 'bbox_3d that are not 7 numbers, or velocity that is not 2'
        return
    if not np.isfinite(boxes).all():
        yield 'NaN or infinite values in bbox_3d'
    elif (boxes[:, 3:6] <= 0).any():
        yield 'bbox_3d with a size that is not positive'
    # An unknown velocity is NaN in both components, which mmdet3d takes for standing still.
    if not np.isfinite(velocities[~np.isnan(velocities).all(axis=1)]).all():
        yield 'infinite or half unknown values in velocity'


def _is_finite(matrix: Any) -> bool:
    try:
        return bool(np.isfinite(np.asarray(matrix, dtype=np.float64)).all())
    except (ValueError, TypeError):
        return False


def check_class_balance(infos: Mapping, path: str, dataset: Mapping) -> list[Problem]:
    """Whether each class has a box to be drawn by ``CBGSDataset``, which divides by their number.

    mmdet3d's datasets drop boxes without a LiDAR point.
    """
    classes = dict(dataset.get('metainfo') or {}).get('classes') or CLASSES
    least_points = 0 if type_name(dataset) == 'AllBoxesNuScenesDataset' else 1
    present = {
        instance['bbox_label_3d']
        for frame in infos['data_list']
        for instance in frame.get('instances') or ()
        if instance.get('num_lidar_pts', 1) >= least_points
    }
    absent = [name for name in classes if name in CLASSES and CLASSES.index(name) not in present]
    if not absent:
        return []
    what = f"CBGSDataset balances classes of which '{path}' has no box that counts: "
    remedy = (
        'take these classes out of metainfo.classes, or train without CBGSDataset: '
        'put the dataset inside it in its place'
    )
    return [Problem(what + ', '.join(absent), remedy)]
