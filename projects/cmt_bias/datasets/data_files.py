"""The files that a dataset is read from: can its info file and those of its sensors be used?

Asked before training of the info file, whether mmdet3d 1.4 can read it and train on it; and of
the sensors' files that a frame is read from, whether each of them can be read.
"""

import os.path as osp
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmdet3d.datasets import NuScenesDataset
from rich.progress import track

from ..config_type import type_name
from ..plain_pickle import InfoFileError, load_info_file
from ..problem import Problem

_LISTED_FRAMES = 5
CLASSES: tuple[str, ...] = NuScenesDataset.METAINFO['classes']
POINT_VALUES = 5
"""float32 values of a point in a nuScenes file: x, y, z, intensity, ring."""


class UsedData(NamedTuple):
    """What the pipeline of a dataset loads."""

    points: bool = True
    sweeps: int = 0  # of the listed earlier sweeps, the first so many may be added to them
    images: bool = True
    point_values: int = POINT_VALUES
    annotation_keys: tuple[str, ...] = ('bbox_3d', 'bbox_label_3d', 'velocity', 'num_lidar_pts')
    from_here: bool = True  # the files are those of this machine


class SensorFile(NamedTuple):
    """A file of a sensor, with the number of float32 values of its points; 0 for an image."""

    path: Path
    point_values: int = 0


def is_local(backend_args: Mapping | None) -> bool:
    """Whether a dataset's ``backend_args`` read this machine's files."""
    backend = (backend_args or {}).get('backend', 'local')
    return backend in ('local', 'disk', 'hard_disk', 'atomic_local')


def used_data(dataset: Mapping) -> UsedData:
    """What a dataset's config loads, of its ``modality``: all of it, if there is no pipeline."""
    modality = dataset.get('modality') or dict(use_lidar=True, use_camera=False)
    lidar, camera = bool(modality.get('use_lidar')), bool(modality.get('use_camera'))
    keys = ['bbox_3d', 'bbox_label_3d'] + ['velocity'] * dataset.get('with_velocity', True)
    keys.append('bbox_3d_isvalid' if dataset.get('use_valid_flag') else 'num_lidar_pts')
    steps = list(_steps(dataset.get('pipeline') or ()))
    if not steps:
        return UsedData(lidar, 10 * lidar, camera, annotation_keys=tuple(keys))
    point_steps = [step for kind, step in steps if re.match(r'Load\w*Point', kind)]
    sweep_steps = [step for kind, step in steps if re.match(r'Load\w*Sweeps', kind)]
    return UsedData(
        points=lidar and bool(point_steps),
        sweeps=max(map(_sweeps_read, sweep_steps), default=0) * lidar,
        images=camera and any(re.match(r'Load\w*Image', kind) for kind, _ in steps),
        point_values=next((s['load_dim'] for s in point_steps if 'load_dim' in s), POINT_VALUES),
        annotation_keys=tuple(keys),
        from_here=all(is_local(c.get('backend_args')) for c in (dataset, *(s for _, s in steps))),
    )


def _sweeps_read(step: Mapping) -> int:
    """How many of the listed sweeps a step that loads them may read: in training it draws."""
    number = int(step.get('sweeps_num', 10))
    return number if step.get('test_mode') or number == 0 else sys.maxsize


def _steps(pipeline: Sequence) -> Iterator[tuple[str, Mapping]]:
    """Types and configs of all transforms, those inside others too."""
    for step in pipeline:
        if isinstance(step, Mapping):
            yield type_name(step), step
            yield from _steps(step.get('transforms') or ())
        elif isinstance(step, Sequence) and not isinstance(step, str):
            yield from _steps(step)


def sensor_files(info: Mapping, used: UsedData) -> list[SensorFile]:
    """LiDAR keyframe, sweeps and images of a frame, as ``parse_data_info`` of its dataset says."""
    files = []
    if used.points:
        for cloud in (info, *info.get('lidar_sweeps', ())[: used.sweeps]):
            path = Path(cloud['lidar_points']['lidar_path'])
            files.append(SensorFile(path, used.point_values))
    if used.images:
        files += [SensorFile(Path(image['img_path'])) for image in info['images'].values()]
    return files


def fault_of_file(file: SensorFile) -> str | None:
    """What is wrong with a file, having read it; a sensor may return no point at all."""
    try:
        content = file.path.read_bytes()
    except OSError as error:
        return f'cannot be read: {error.strerror}'
    if file.point_values:
        size = 4 * file.point_values
        if len(content) % size:
            return f'is cut off: {len(content)} bytes are no whole number of points of {size}'
        points = np.frombuffer(content, dtype=np.float32).reshape(-1, file.point_values)
        bad = int((~np.isfinite(points).all(axis=1)).sum())
        return f'has NaN or infinite values in {bad} of {len(points)} points' if bad else None
    if not content:
        return 'is empty'
    if content.startswith(b'\xff\xd8') and not content.rstrip(b'\0').endswith(b'\xff\xd9'):
        return f'is cut off after {len(content)} bytes: the end of the JPEG is missing'
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        return f'({len(content)} bytes) is not an image that can be decoded'
    channels = 1 if image.ndim == 2 else image.shape[2]
    return None if channels == 3 else f'has {channels} colour channels instead of 3'


def faults_of_files(files: Iterable[SensorFile], workers: int = 8) -> dict[Path, str]:
    """Read each of some files once, with a progress bar; what is wrong with those that are bad."""
    distinct = list(dict.fromkeys(files))
    with ThreadPoolExecutor(workers) as pool:
        faults = pool.map(fault_of_file, distinct)
        found = track(zip(distinct, faults, strict=True), 'reading files', total=len(distinct))
        return {file.path: fault for file, fault in found if fault is not None}


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
        what = f"the info file '{path}' has no sample"
        return infos if infos['data_list'] else Problem(what, remedy)
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
        cloud = frame['lidar_points']
        missing += [f'lidar_points.{k}' for k in ('lidar_path', 'num_pts_feats') if k not in cloud]
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
