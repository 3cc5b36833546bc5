"""Convert a nuScenes dataset to mmdet3d's info files and database, with mmdet3d's converter.

mmdet3d 1.4 ships its converter inside the wheel, as scripts under ``mmdet3d/.mim/tools``. They
assume ``./data/nuscenes`` and 1600 x 900 images in places; what is replaced here while they run,
and why, stands at :func:`_prepared_converter`.
"""

import contextlib
import functools
import multiprocessing
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import mmdet3d
import mmengine
import numpy as np
import torch
from mmdet3d.datasets import convert_utils
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.registry import DefaultScope
from nuscenes import NuScenes, nuscenes
from nuscenes.utils.splits import create_splits_scenes
from tqdm import tqdm

from ..plain_pickle import InfoFileError, load_info_file
from .loading import LoadAlignedSweeps, camera_matrices
from .nuscenes_layout import CONVERTED_SPLITS, NUSCENES_TABLES, read_table
from .object_sample import visible_boxes

VERSIONS = tuple(CONVERTED_SPLITS)
MAX_SWEEPS = 10
_MIN_CROP_SIDE = 10  # both are longer than this, in pixels, as in the released database
_JPEG_QUALITY = 95
_CAMERAS = ('FRONT', 'FRONT_RIGHT', 'FRONT_LEFT', 'BACK', 'BACK_LEFT', 'BACK_RIGHT')


class DatasetLayoutError(RuntimeError):
    """A folder lacks something that the conversion needs, or holds what it would destroy."""


def convert_nuscenes(
    root: Path,
    out_dir: Path,
    prefix: str = 'nuscenes',
    version: str = 'v1.0-trainval',
    max_sweeps: int = MAX_SWEEPS,
    image_crops: bool = True,
    workers: int = 1,
) -> dict[str, int]:
    """Write ``<prefix>_infos_{train,val}.pkl`` and the database for pasting.

    Of v1.0-test, which has no annotations, only ``<prefix>_infos_test.pkl``. A killed run leaves
    ``out_dir`` as it was or, if killed at the very end while the files take their places, without
    ``<prefix>_dbinfos_train.pkl``, which comes last.

    ``max_sweeps`` past LiDAR sweeps are listed for a sample; ``image_crops`` are the objects of
    the database cut out of the images; ``workers`` processes do the slowest step. Returns the
    number of samples of each info file, of database ``objects`` and of image ``crops``.

    Raises:
        DatasetLayoutError: If the dataset is incomplete, or ``out_dir`` has info files of another
            version under these names.
    """
    check_layout(root, version)
    names = [f'{prefix}_infos_{split}.pkl' for split in CONVERTED_SPLITS[version]]
    for name in reversed(names):  # the smaller one first
        _check_replaced(out_dir / name, version)
    out_dir.mkdir(parents=True, exist_ok=True)
    tables = NuScenes(version=version, dataroot=str(root), verbose=False)
    staging = out_dir.resolve() / '.unfinished_conversion'
    shutil.rmtree(staging, ignore_errors=True)  # what a killed run left
    staging.mkdir()
    counts = dict(objects=0, crops=0)
    try:
        with _prepared_converter(tables) as converter:
            # The converter joins root and prefix; an absolute prefix puts its output elsewhere.
            converter.infos.create_nuscenes_infos(
                str(root), str(staging / prefix), version=version, max_sweeps=max_sweeps
            )
            for split, name in zip(CONVERTED_SPLITS[version], names, strict=True):
                counts[split] = _update_infos(converter, tables, staging / name, workers)
            if 'train' in counts:
                names += [f'{prefix}_gt_database', f'{prefix}_dbinfos_train.pkl']
                counts['objects'] = _write_database(converter, root, staging, prefix)
        if image_crops and counts['objects']:
            counts['crops'] = add_image_crops(staging / names[-1], staging / names[0], root)
        if 'train' in counts:  # a list is never beside the files of another database
            (out_dir / names[-1]).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):  # at once; to delete it takes long
                os.replace(out_dir / names[-2], staging / 'replaced')
        for name in names:
            os.replace(staging / name, out_dir / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return counts


def check_layout(root: Path, version: str) -> None:
    """Raise a DatasetLayoutError that names what a nuScenes dataset lacks and what to do."""
    if version not in VERSIONS:
        raise DatasetLayoutError(f'--version must be one of {", ".join(VERSIONS)}: {version!r}')
    if not root.is_dir():
        raise DatasetLayoutError(
            f'The dataset folder {root} does not exist. Unpack nuScenes there, link it there, or '
            f'write a synthetic one: python tools/create_synthetic_nuscenes.py --out {root}'
        )
    tables = root / version
    missing = [name for name in NUSCENES_TABLES if not (tables / f'{name}.json').is_file()]
    if missing:
        present = ', '.join(sorted(path.name for path in root.glob('v1.0-*'))) or 'none'
        raise DatasetLayoutError(
            f'No nuScenes tables in {tables}: {missing[0]}.json is not in it. Unpack the metadata '
            f'archive of nuScenes there, pass --version (found: {present}), or as --root-path the '
            'folder that has samples/, sweeps/, maps/ and v1.0-*/.'
        )
    maps = (record['filename'] for record in read_table(tables, 'map'))
    for path in ('samples/LIDAR_TOP', *(f'samples/CAM_{place}' for place in _CAMERAS), *maps):
        if not (root / path).exists():
            raise DatasetLayoutError(
                f'{root / path} is missing. Unpack all archives of {version} into {root}.'
            )
    # The converter fails on a split without a scene, with no reason.
    names = {scene['name'] for scene in read_table(tables, 'scene')}
    for official in CONVERTED_SPLITS[version].values():
        if names.isdisjoint(create_splits_scenes()[official]):
            raise DatasetLayoutError(
                f'{tables} has no scene of the official split {official}; '
                'each split of a version needs one. Is --version right?'
            )


def _check_replaced(path: Path, version: str) -> None:
    """Refuse to replace an info file of another version of the tables, if it tells its own."""
    try:
        infos = load_info_file(path)
    except (OSError, InfoFileError):
        return
    metainfo = infos.get('metainfo') if isinstance(infos, dict) else None
    found = (metainfo or {}).get('version', version)
    if found != version:
        raise DatasetLayoutError(
            f'{path} is of {found}, and would be replaced by one of {version}. Give the files '
            'another name with --extra-tag or another folder with --out-dir, or delete it.'
        )


@contextlib.contextmanager
def _prepared_converter(tables: NuScenes) -> Iterator[SimpleNamespace]:
    """The modules of mmdet3d's scripts, with some things replaced while they run.

    - They load the tables three times, twice from ``./data/nuscenes`` whatever the root: they get
      the tables that are loaded already.
    - They clip projected boxes to 1600 x 900 pixels: they get the images' own size.
    - They read the database's points with a loader that misplaces sweeps of a turning vehicle:
      they get :class:`LoadAlignedSweeps`.
    - They build mmdet3d classes by name, which needs mmdet3d as default scope.
    """
    folder = Path(mmdet3d.__file__).parent / '.mim' / 'tools'
    if not (folder / 'dataset_converters' / 'nuscenes_converter.py').is_file():
        raise DatasetLayoutError(f'{folder} has no converter: pip install mmdet3d==1.4.0')
    camera = next(row for row in tables.sample_data if row['fileformat'] == 'jpg')
    clip = functools.partial(
        convert_utils.post_process_coords, imsize=(camera['width'], camera['height'])
    )
    with mock.patch.object(sys, 'path', [str(folder), *sys.path]):
        from dataset_converters import create_gt_database, nuscenes_converter, update_infos_to_v2
    with (
        DefaultScope.overwrite_default_scope('mmdet3d'),
        mock.patch.object(nuscenes, 'NuScenes', return_value=tables),
        mock.patch.object(update_infos_to_v2, 'NuScenes', return_value=tables),
        mock.patch.object(convert_utils, 'post_process_coords', clip),
        mock.patch.dict(TRANSFORMS.module_dict, LoadPointsFromMultiSweeps=LoadAlignedSweeps),
    ):
        yield SimpleNamespace(
            infos=nuscenes_converter, update=update_infos_to_v2, database=create_gt_database
        )


_project: Callable[[dict], dict]  # what forked processes share


def _apply_projection(info: dict) -> dict:
    return _project(info)


def _update_infos(converter: SimpleNamespace, tables: NuScenes, path: Path, workers: int) -> int:
    """Bring an info file into the v1.1 format; return its number of samples.

    Projecting the boxes into the cameras is the converter's slowest step. Forked processes share
    the tables, which take gigabytes for the whole of nuScenes.
    """
    global _project
    name = 'generate_nuscenes_camera_instances'
    _project = functools.partial(getattr(converter.update, name), nusc=tables)
    infos = mmengine.load(path)['infos']
    context = multiprocessing.get_context('fork')
    with context.Pool(max(1, workers), torch.set_num_threads, (1,)) as pool:
        results = pool.imap(_apply_projection, infos, chunksize=4)
        shown = tqdm(results, total=len(infos), desc='2D boxes', unit='sample')
        projected = {info['token']: result for info, result in zip(infos, shown, strict=True)}
    with mock.patch.object(converter.update, name, lambda info, _: projected[info['token']]):
        converter.update.update_pkl_infos('nuscenes', out_dir=str(path.parent), pkl_path=str(path))
    updated = mmengine.load(path)
    # mmdet3d takes any sweep with ``samples`` in its path for a keyframe, so a dataset below a
    # folder of that name could not be read with the full paths that its converter stores.
    for sample in updated['data_list']:
        for sweep in sample.get('lidar_sweeps', ()):
            points = sweep['lidar_points']
            points['lidar_path'] = '/'.join(Path(points['lidar_path']).parts[-3:])
    mmengine.dump(updated, path)
    return len(updated['data_list'])


def _write_database(converter: SimpleNamespace, root: Path, staging: Path, prefix: str) -> int:
    """Write the points of all training objects and their list; return their number."""
    database_path = staging / f'{prefix}_dbinfos_train.pkl'
    # The converter names an object by indexing the classes with its label, so those of no class,
    # whose label is -1, would enter the database under the last class: debris as barriers.
    infos = mmengine.load(staging / f'{prefix}_infos_train.pkl')
    for sample in infos['data_list']:
        sample['instances'] = [row for row in sample['instances'] if row['bbox_label_3d'] >= 0]
    classified_path = staging / f'{prefix}_infos_train_classified.pkl'
    mmengine.dump(infos, classified_path)
    converter.database.create_groundtruth_database(
        'NuScenesDataset',
        str(root),
        prefix,
        str(classified_path),
        database_save_path=str(staging / f'{prefix}_gt_database'),
        db_info_save_path=str(database_path),
    )
    return sum(len(entries) for entries in mmengine.load(database_path).values())


def add_image_crops(database_path: Path, info_path: Path, data_root: Path) -> int:
    """Cut a database's objects out of the images, as the released CMT's are; return their number.

    Each entry, which mmdet3d's own ``ObjectSample`` still reads, gets of the camera that shows the
    object largest: ``image_path`` (the crop, beside its points, relative to the folder of the
    database), ``image_crop_key`` (the channel) and ``image_crop_depth`` (mean depth of the box's
    corners, metres); '' and 0 if none shows it. An OSError is raised if an image is missing or a
    crop cannot be written.
    """
    database = mmengine.load(database_path)
    samples = mmengine.load(info_path)['data_list']
    entries_of_sample = defaultdict(list)
    for entries in database.values():
        for entry in entries:
            entry.update(image_path='', image_crop_key='', image_crop_depth=0.0)
            entries_of_sample[int(entry['image_idx'])].append(entry)
    for index in tqdm(sorted(entries_of_sample), desc='Image crops', unit='sample'):
        found = entries_of_sample[index]
        _cut_from_sample(found, samples[index], data_root, database_path.parent)
    mmengine.dump(database, database_path)
    return sum(bool(entry['image_path']) for entries in database.values() for entry in entries)


def _cut_from_sample(
    entries: list[dict], sample: Mapping, data_root: Path, crop_root: Path
) -> None:
    """Write the crops of the objects of one sample and name them in their entries."""
    tensor = torch.as_tensor(np.stack([entry['box3d_lidar'] for entry in entries]))
    corners = LiDARInstance3DBoxes(tensor, box_dim=tensor.shape[1]).corners.double().numpy()
    largest: dict[int, np.ndarray] = {}
    cameras = sample['images']
    lidar2img = camera_matrices(cameras, 'cam2img') @ camera_matrices(cameras, 'lidar2cam')
    for (camera, image_info), matrix in zip(cameras.items(), lidar2img, strict=True):
        image_path = data_root / 'samples' / camera / image_info['img_path']
        image = cv2.imread(str(image_path))
        if image is None:
            raise FileNotFoundError(f'{image_path} is missing or not an image')
        boxes = visible_boxes(corners, matrix, image.shape[:2])
        for index, (left, top, right, bottom), depth in zip(*boxes, strict=True):
            crop = image[top:bottom, left:right]
            known = largest.get(index)
            if min(crop.shape[:2]) > _MIN_CROP_SIDE and (known is None or crop.size > known.size):
                largest[index] = crop
                entries[index].update(image_crop_key=camera, image_crop_depth=float(depth))
    for index, crop in largest.items():
        path = str(Path(entries[index]['path']).with_suffix('.jpg'))
        _, encoded = cv2.imencode('.jpg', crop, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        (crop_root / path).write_bytes(encoded.tobytes())  # a full disk is an error
        entries[index]['image_path'] = path
