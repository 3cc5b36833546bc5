"""Is an annotation file what mmdet3d 1.4 reads? Asked before training, not during it."""

import os.path as osp
import pickle
from collections.abc import Mapping

from cmt_bias.problem import Problem

_CREATE = (
    'make it: python tools/create_data.py nuscenes --root-path {root} --out-dir {root} '
    '--extra-tag nuscenes'
)
_CONVERT = (
    'convert it: python tools/dataset_converters/update_infos_to_v2.py --dataset nuscenes '
    "--pkl-path '{path}' --out-dir '{root}' (of mmdet3d's repository; it reads "
    './data/nuscenes), or ' + _CREATE
)


def check_info_file(path: str) -> list[Problem]:
    """Look at the format of an info file (``nuscenes_infos_train.pkl`` and its kind).

    Args:
        path: The file.

    Returns:
        What is wrong: it does not exist, is no pickle, is of the format before mmdet3d 1.1, or
        its samples lack what the loaders read. Empty if nothing is.
    """
    root = osp.dirname(path) or '.'
    create, convert = _CREATE.format(root=root), _CONVERT.format(path=path, root=root)
    if not osp.isfile(path):
        return [Problem(f"the info file '{path}' does not exist", create)]
    try:
        with open(path, 'rb') as file:
            infos = pickle.load(file)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
        return [Problem(f"the info file '{path}' cannot be read as a pickle: {error}", create)]

    if isinstance(infos, list) or (isinstance(infos, Mapping) and 'infos' in infos):
        what = f"the info file '{path}' has the old format, of mmdet3d before 1.1"
        return [Problem(what, convert)]
    if not isinstance(infos, Mapping) or not {'metainfo', 'data_list'} <= set(infos):
        what = f"'{path}' is no info file: it has no 'metainfo' and 'data_list'"
        return [Problem(what, create)]
    if not infos['data_list']:
        return [Problem(f"the info file '{path}' has no sample", create)]
    missing = _missing_keys(infos['data_list'][0])
    if missing:
        what = f"samples of the info file '{path}' have no {', '.join(missing)}"
        return [Problem(what, create)]
    return []


def check_data_folders(data_root: str, data_prefix: Mapping[str, str]) -> list[Problem]:
    """Whether the folders in which a dataset looks for its files exist.

    Args:
        data_root: The dataset's ``data_root``.
        data_prefix: Its ``data_prefix``: for each kind of file a folder relative to the root.
    """
    if not osp.isdir(data_root):
        return [
            Problem(
                f"the data folder '{data_root}' does not exist",
                'unpack nuScenes there, or set data_root in the config; synthetic data: '
                'python tools/create_synthetic_nuscenes.py --out data/synthetic',
            )
        ]
    folders = {osp.join(data_root, prefix) for prefix in data_prefix.values()}
    return [
        Problem(
            f"the data folder '{folder}' does not exist",
            f"unpack nuScenes into '{data_root}', or correct data_prefix of the config",
        )
        for folder in sorted(folders)
        if not osp.isdir(folder)
    ]


def _missing_keys(sample: Mapping) -> list[str]:
    """Keys that the loaders of points and images read and ``sample`` lacks."""
    missing = [key for key in ('sample_idx', 'lidar_points', 'images') if key not in sample]
    if 'lidar_points' in sample and 'lidar_path' not in sample['lidar_points']:
        missing.append('lidar_points.lidar_path')
    for camera, entry in sample.get('images', {}).items():
        missing += [
            f'images.{camera}.{key}'
            for key in ('img_path', 'cam2img', 'lidar2cam')
            if key not in entry
        ]
    return missing
