"""Which files of its sensors a frame is read from, and whether each of them can be read."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rich.progress import track

from ..config_type import type_name

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
