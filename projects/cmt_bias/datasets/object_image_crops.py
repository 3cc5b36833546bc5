"""Cut the objects of a ground-truth database out of the camera images.

Adds to each entry of mmdet3d's database what the released CMT's has for pasting into images;
mmdet3d's own ``ObjectSample`` still reads it:

- ``image_path``: the crop (relative to the data root) of the camera that shows the object
  largest, ``''`` if none shows it;
- ``image_crop_key``: that camera's channel name, or ``''``;
- ``image_crop_depth``: mean depth of the box's corners in that camera, metres, or 0.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import cv2
import mmengine
import numpy as np
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from tqdm import tqdm

from .image_pasting import visible_boxes
from .loading import camera_matrices

_MIN_CROP_SIDE = 10  # both are longer than this, in pixels, as in the released database
_JPEG_QUALITY = 95


def add_image_crops(database_path: Path, info_path: Path, data_root: Path) -> int:
    """Write a database's crops beside its points and name them in it; return their number.

    Args:
        database_path: The database, in the folder that its paths are relative to; rewritten when
            all crops are written.
        info_path: Info file whose samples the entries' ``image_idx`` number.
        data_root: Dataset folder with ``samples/<camera>/``.

    Raises:
        OSError: If an image is missing or a crop cannot be written.
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
