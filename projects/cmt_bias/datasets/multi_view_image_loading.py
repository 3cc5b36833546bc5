"""Load the camera images of a sample together with the matrices that project into them."""

from collections.abc import Mapping

import mmcv
import mmengine.fileio
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadCalibratedMultiViewImages(BaseTransform):
    """Load one image per camera and ``lidar2img``, the projection from the LiDAR frame.

    Takes the place of mmdet3d 1.4's ``LoadMultiViewImageFromFiles``, which does not set
    ``lidar2img``, leaves ``cam2img`` as nested lists, and returns strided views of one array in
    which the cameras are interleaved, which every later operation has to copy.

    Required keys: ``images``, a mapping from camera name to ``img_path``, ``cam2img`` (3, 3) or
    (4, 4) and ``lidar2cam`` (4, 4), as info files of format 1.1 have it.

    Added keys, V cameras in the order of ``images``:

    - ``img``: list of V contiguous uint8 arrays (H, W, 3), BGR.
    - ``filename``, ``camera_names``: lists of V strings.
    - ``cam2img``, ``lidar2cam``, ``lidar2img``: float64 arrays (V, 4, 4); ``lidar2img @ (x, y, z,
      1)`` is ``(u d, v d, d, 1)`` with the pixel (u, v) and the depth d in metres.
    - ``ori_cam2img``, ``ori_lidar2img``: copies which later transforms leave as they are.
    - ``img_shape``, ``ori_shape``, ``pad_shape``: (H, W); the largest, where cameras differ.
    - ``num_views``: V.

    Args:
        to_float32: Return float32 arrays instead of uint8 ones. Four times the memory.
        backend_args: Arguments of the mmengine file backend, None for local files.

    Raises:
        FileNotFoundError: If an image file does not exist.
        ValueError: If a file is not an image that can be decoded.
        KeyError: If a camera lacks its calibration.
    """

    def __init__(self, to_float32: bool = False, backend_args: dict | None = None) -> None:
        self.to_float32 = to_float32
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Load the images of ``results['images']`` and stack their calibration."""
        cameras: Mapping[str, dict] = results['images']
        results['camera_names'] = list(cameras)
        results['filename'] = [camera['img_path'] for camera in cameras.values()]
        results['img'] = [self._read_image(path) for path in results['filename']]

        results['cam2img'] = camera_matrices(cameras, 'cam2img')
        results['lidar2cam'] = camera_matrices(cameras, 'lidar2cam')
        results['lidar2img'] = results['cam2img'] @ results['lidar2cam']
        results['ori_cam2img'] = results['cam2img'].copy()
        results['ori_lidar2img'] = results['lidar2img'].copy()

        height, width = np.max([image.shape[:2] for image in results['img']], axis=0)
        for key in ('img_shape', 'ori_shape', 'pad_shape'):
            results[key] = (int(height), int(width))
        results['num_views'] = len(cameras)
        return results

    def _read_image(self, path: str) -> np.ndarray:
        try:
            encoded = mmengine.fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the camera image '{path}' does not exist; check data_root and data_prefix of "
                'the dataset in the config, and that the camera files are unpacked'
            ) from error
        image = mmcv.imfrombytes(encoded, flag='color')
        if image is None:
            raise ValueError(
                f"'{path}' ({len(encoded)} bytes) is not a readable image; copy or unpack it again"
            )
        return image.astype(np.float32) if self.to_float32 else image


def camera_matrices(cameras: Mapping[str, Mapping], key: str) -> np.ndarray:
    """Matrices of V cameras, embedded into 4x4: float64 (V, 4, 4).

    Args:
        cameras: ``images`` of an info file's sample.
        key: 'cam2img' or 'lidar2cam'; a KeyError says which camera has none.
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
