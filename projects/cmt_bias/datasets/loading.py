"""Load camera images with the matrices that project into them, and past LiDAR sweeps."""

from collections.abc import Mapping

import mmcv
import mmengine.fileio
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import LoadPointsFromMultiSweeps
from mmdet3d.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadCalibratedMultiViewImages(BaseTransform):
    """Load one image per camera and ``lidar2img``, the projection from the LiDAR frame.

    mmdet3d 1.4's ``LoadMultiViewImageFromFiles`` does not set ``lidar2img``, leaves ``cam2img`` as
    nested lists, and returns strided views of one array in which the cameras are interleaved.

    Added keys, V cameras in the order of ``images`` of the info file:

    - ``img``: list of V contiguous uint8 arrays (H, W, 3), BGR.
    - ``filename``, ``camera_names``: lists of V strings; ``num_views``: V.
    - ``cam2img``, ``lidar2cam``, ``lidar2img``: float64 arrays (V, 4, 4); ``lidar2img @ (x, y, z,
      1)`` is ``(u d, v d, d, 1)`` with the pixel (u, v) and the depth d in metres.
    - ``ori_lidar2img``: a copy which later transforms leave as it is.
    - ``img_shape``, ``ori_shape``, ``pad_shape``: (H, W); the largest, where cameras differ.

    Images are float32 instead with ``to_float32``; ``backend_args`` are those of mmengine's files.
    A FileNotFoundError, ValueError or KeyError is raised if an image does not exist, cannot be
    decoded, or a camera lacks its calibration.
    """

    def __init__(self, to_float32: bool = False, backend_args: dict | None = None) -> None:
        self.to_float32 = to_float32
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Load the images of ``results['images']`` and stack their calibration."""
        cameras: Mapping[str, dict] = results['images']
        results['camera_names'] = list(cameras)
        results['filename'] = [camera['img_path'] for camera in cameras.values()]
        try:
            images = [read_image(path, self.backend_args) for path in results['filename']]
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'{error}; check data_root and data_prefix of the dataset in the config, and that '
                'the camera files are unpacked'
            ) from error
        results['img'] = [
            image.astype(np.float32) if self.to_float32 else image for image in images
        ]
        for key in ('cam2img', 'lidar2cam'):
            results[key] = camera_matrices(cameras, key)
        results['lidar2img'] = results['cam2img'] @ results['lidar2cam']
        results['ori_lidar2img'] = results['lidar2img'].copy()
        height, width = np.max([image.shape[:2] for image in results['img']], axis=0)
        for key in ('img_shape', 'ori_shape', 'pad_shape'):
            results[key] = (int(height), int(width))
        results['num_views'] = len(cameras)
        return results


def read_image(path: str, backend_args: dict | None) -> np.ndarray:
    """Read an image (H, W, 3), uint8 BGR; a ValueError names a file that cannot be decoded."""
    encoded = mmengine.fileio.get(path, backend_args=backend_args)
    image = mmcv.imfrombytes(encoded, flag='color')
    if image is None:
        what = f"'{path}' ({len(encoded)} bytes) is not a readable image"
        raise ValueError(f'{what}; copy, unpack or make it again')
    return image


def camera_matrices(cameras: Mapping[str, Mapping], key: str) -> np.ndarray:
    """'cam2img' or 'lidar2cam' of V cameras, embedded into 4x4: float64 (V, 4, 4).

    ``cameras`` are ``images`` of an info file's sample; a KeyError names one without the key.
    """
    stacked = np.tile(np.eye(4), (len(cameras), 1, 1))
    for view, (name, camera) in enumerate(cameras.items()):
        if key not in camera:
            raise KeyError(
                f"camera {name} has no '{key}' in the info file; "
                'make the info files anew with tools/create_data.py'
            )
        matrix = np.asarray(camera[key], dtype=np.float64)
        stacked[view, : matrix.shape[0], : matrix.shape[1]] = matrix
    return stacked


@TRANSFORMS.register_module()
class LoadAlignedSweeps(LoadPointsFromMultiSweeps):
    """mmdet3d's ``LoadPointsFromMultiSweeps`` with the sweeps in their right place.

    ``lidar2sensor`` of the info file takes a point q of the keyframe's LiDAR frame to ``p = R q +
    t`` in the sweep's. The way back is ``(p - t) @ R`` (rows), and so did mmdet3d up to 1.0. Its
    version 1.4.0 computes ``p @ R - t``, which shifts a sweep by ``t @ R - t``: nothing when the
    vehicle drives straight, 0.6 m for a sweep of half a second ago at 20 degrees/s and 7 m/s.

    Of more than ``sweeps_num`` sweeps a random choice is loaded, with ``test_mode`` the latest.
    """

    def transform(self, results: dict) -> dict:
        """Add the sweeps to ``points`` (metres, LiDAR frame of the keyframe, age in seconds)."""
        keyframe = results['points']
        keyframe.tensor[:, 4] = 0
        clouds = [keyframe]
        sweeps = results.get('lidar_sweeps') or []
        if not sweeps and self.pad_empty_sweeps:
            again = self._remove_close(keyframe) if self.remove_close else keyframe
            clouds += [again] * self.sweeps_num
        chosen = np.arange(min(len(sweeps), self.sweeps_num))  # the latest
        if len(sweeps) > self.sweeps_num and not self.test_mode:
            chosen = np.asarray(np.random.choice(len(sweeps), self.sweeps_num, replace=False))
        for index in chosen:
            sweep = sweeps[index]
            points = self._load_points(sweep['lidar_points']['lidar_path'])
            points = points.reshape(-1, self.load_dim).copy()
            if self.remove_close:
                points = self._remove_close(points)
            lidar2sensor = np.array(sweep['lidar_points']['lidar2sensor'])
            points[:, :3] = (points[:, :3] - lidar2sensor[:3, 3]) @ lidar2sensor[:3, :3]
            points[:, 4] = results['timestamp'] - sweep['timestamp']
            clouds.append(keyframe.new_point(points))
        results['points'] = keyframe.cat(clouds)[:, self.use_dim]
        return results
