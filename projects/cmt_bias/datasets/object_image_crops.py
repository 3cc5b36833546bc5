"""Cut the objects of a ground-truth database out of the camera images.

Adds to each entry of mmdet3d's database (``nuscenes_dbinfos_train.pkl``) what pasting into images
needs, and leaves the stock keys as they are, so that mmdet3d's own ``ObjectSample`` still reads
the file:

- ``image_crops``: a list with one dict for each camera that sees the object: ``camera`` (channel
  name), ``path`` (JPEG file relative to the data root), ``box`` (left, top, right, bottom in the
  source image, pixels, right and bottom exclusive), ``depth`` (mean depth of the box's corners,
  metres) and ``occluded`` (share of the rectangle that nearer objects' rectangles cover);
- ``image_path``: the path of the largest crop, or ``''``, the name the released code reads.
"""

import os
import pickle
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import cv2
import mmengine
import numpy as np
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from tqdm import tqdm

from .image_pasting import VisibleBoxes, visible_boxes

# Above this share of covered pixels a crop shows something else than its object.
MAX_OCCLUDED_SHARE = 0.7
_JPEG_QUALITY = 95


def add_image_crops(
    database_path: Path,
    info_path: Path,
    data_root: Path,
    crop_root: Path,
    show_progress: bool = True,
) -> int:
    """Write the crops of all entries of a database and name them in it.

    Args:
        database_path: The database; replaced in one step when all crops are written.
        info_path: Info file in the v1.1 format whose samples the entries' ``image_idx`` number.
        data_root: Dataset folder with ``samples/<camera>/``.
        crop_root: Folder that the entries' ``path`` are relative to; crops are written beside
            the objects' points.
        show_progress: Show a progress bar on stderr.

    Returns:
        Number of crops written.

    Raises:
        FileNotFoundError: If an image is missing.
    """
    with open(database_path, 'rb') as file:
        database = pickle.load(file)
    samples = mmengine.load(info_path)['data_list']
    entries_of_sample = defaultdict(list)
    for entries in database.values():
        for entry in entries:
            entry['image_crops'] = []
            entries_of_sample[int(entry['image_idx'])].append(entry)

    count = 0
    for index in tqdm(
        sorted(entries_of_sample), desc='Image crops', unit='sample', disable=not show_progress
    ):
        entries = entries_of_sample[index]
        for camera, image_info in samples[index]['images'].items():
            count += _cut_from_camera(entries, camera, image_info, data_root, crop_root)
    for entries in database.values():
        for entry in entries:
            largest = max(entry['image_crops'], key=_crop_area, default=None)
            entry['image_path'] = largest['path'] if largest else ''
    temporary = database_path.with_name(database_path.name + '.part')
    with open(temporary, 'wb') as file:
        pickle.dump(database, file)
    os.replace(temporary, database_path)
    return count


def lidar_to_image(image_info: Mapping) -> np.ndarray:
    """Return the (4, 4) pixel <- LiDAR matrix of one camera of an info file's sample."""
    pixel_from_camera = np.eye(4)
    pixel_from_camera[:3, :3] = np.array(image_info['cam2img'])[:3, :3]
    return pixel_from_camera @ np.array(image_info['lidar2cam'], dtype=np.float64)


def occluded_shares(boxes: VisibleBoxes, image_shape: tuple[int, int]) -> np.ndarray:
    """Share of each rectangle that rectangles of nearer boxes cover.

    Args:
        boxes: Boxes that one camera sees, farthest first.
        image_shape: (H, W) in pixels.

    Returns:
        (K,) shares in [0, 1], in the order of ``boxes``.
    """
    covered = np.zeros(image_shape, dtype=bool)
    shares = np.zeros(len(boxes.index))
    for position in reversed(range(len(boxes.index))):
        left, top, right, bottom = boxes.rectangle[position]
        window = covered[top:bottom, left:right]
        shares[position] = window.mean()
        window[:] = True
    return shares


def _cut_from_camera(
    entries: list[dict], camera: str, image_info: Mapping, data_root: Path, crop_root: Path
) -> int:
    """Write one camera's crops of the objects of one sample; return their number."""
    image_path = data_root / 'samples' / camera / image_info['img_path']
    image = cv2.imread(str(image_path))
    if image is None:
        raise FileNotFoundError(f'{image_path} is missing or not an image')
    tensor = torch.as_tensor(np.stack([entry['box3d_lidar'] for entry in entries]))
    corners = LiDARInstance3DBoxes(tensor, box_dim=tensor.shape[1]).corners.numpy()
    height, width = image.shape[:2]
    boxes = visible_boxes(corners.astype(np.float64), lidar_to_image(image_info), (height, width))
    shares = occluded_shares(boxes, (height, width))
    count = 0
    for index, rectangle, depth, share in zip(
        boxes.index, boxes.rectangle, boxes.depth, shares, strict=True
    ):
        if share > MAX_OCCLUDED_SHARE:
            continue
        entry = entries[index]
        path = f'{os.path.splitext(entry["path"])[0]}_{camera}.jpg'
        left, top, right, bottom = (int(value) for value in rectangle)
        cv2.imwrite(
            str(crop_root / path),
            image[top:bottom, left:right],
            [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
        )
        entry['image_crops'].append(
            {
                'camera': camera,
                'path': path,
                'box': (left, top, right, bottom),
                'depth': float(depth),
                'occluded': float(share),
            }
        )
        count += 1
    return count


def _crop_area(crop: Mapping) -> int:
    left, top, right, bottom = crop['box']
    return (right - left) * (bottom - top)
