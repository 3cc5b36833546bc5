"""Sensors that show another moment, or another place, than they should."""

import mmcv
import numpy as np
import torch
from mmdet3d.registry import TRANSFORMS

from .recorded_files import file_at, file_of_other_scene
from .sensor_failure import SensorFailure
from .spoiled_parts import SpoiledPart, check_num_views, chosen_views, with_views

_COLUMNS = 5  # of a nuScenes cloud: x, y, z, intensity, ring


@TRANSFORMS.register_module()
class CameraFrozen(SensorFailure):
    """Cameras that show the picture of some time ago; the calibration is that of now.

    At the beginning of a recording, where there is no earlier picture, they show as much later
    ones; where there are neither, nothing changes.

    Args:
        seconds: Age of the picture.
        num_views: How many cameras, drawn anew for each sample; None for all.
        seed: Seed of the draw.

    Raises:
        ValueError: If ``seconds`` or ``num_views`` is not positive.
    """

    spoiled = ('img',)
    must_change = False

    def __init__(self, seconds: float = 2.0, num_views: int | None = None, seed: int = 0) -> None:
        super().__init__(seed)
        _check_seconds(seconds, 'CameraFrozen')
        check_num_views(num_views, 'CameraFrozen')
        self.seconds = seconds
        self.num_views = num_views

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        """See :meth:`SensorFailure.spoil`."""
        views = chosen_views(self.num_views, len(results['img']), rng)
        paths = [
            file_at(path, self.seconds) or file_at(path, -self.seconds) if hit else None
            for path, hit in zip(results['filename'], views, strict=True)
        ]
        return _show(results, paths)


@TRANSFORMS.register_module()
class CameraForeignScene(SensorFailure):
    """Cameras that show a picture of another scene, each its own.

    Args:
        num_views: How many cameras, drawn anew for each sample; None for all.
        seed: Seed of the draw.

    Raises:
        ValueError: If ``num_views`` is not positive.
    """

    spoiled = ('img',)
    must_change = False  # there may be no other scene

    def __init__(self, num_views: int | None = None, seed: int = 0) -> None:
        super().__init__(seed)
        check_num_views(num_views, 'CameraForeignScene')
        self.num_views = num_views

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        """See :meth:`SensorFailure.spoil`."""
        views = chosen_views(self.num_views, len(results['img']), rng)
        paths = [
            file_of_other_scene(path, rng) if hit else None
            for path, hit in zip(results['filename'], views, strict=True)
        ]
        return _show(results, paths)


@TRANSFORMS.register_module()
class LiDARFrozen(SensorFailure):
    """A LiDAR that repeats the keyframe of some time ago as if it were taken now.

    Unlike :class:`LiDARTimeOffset` it takes no annotations to make, and the cloud is a real one,
    without sweeps. At the beginning of a recording it is as much later.

    Args:
        seconds: Age of the cloud.
        seed: Unused; nothing is random.

    Raises:
        ValueError: If ``seconds`` is not positive.
    """

    spoiled = ('points',)
    must_change = False

    def __init__(self, seconds: float = 1.0, seed: int = 0) -> None:
        super().__init__(seed)
        _check_seconds(seconds, 'LiDARFrozen')
        self.seconds = seconds

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        """See :meth:`SensorFailure.spoil`."""
        own = results['lidar_points']['lidar_path']
        path = file_at(own, self.seconds) or file_at(own, -self.seconds)
        if path is None:
            return
        cloud = np.fromfile(path, dtype=np.float32).reshape(-1, _COLUMNS)
        cloud[:, -1] = 0  # seconds by which a point is older than the keyframe
        points = results['points']
        results['points'] = points.new_point(torch.from_numpy(cloud[:, : points.shape[1]].copy()))


def _check_seconds(seconds: float, asked_by: str) -> None:
    if seconds <= 0:
        raise ValueError(f'{asked_by}: seconds={seconds} must be positive')


def _show(results: dict, paths: list[str | None]) -> SpoiledPart:
    """Show other pictures, of the size of the own ones, where a path is given."""
    views = np.array([path is not None for path in paths])
    shown = [
        image if path is None else _read_like(image, path)
        for image, path in zip(results['img'], paths, strict=True)
    ]
    results['img'] = with_views(results['img'], views, shown)
    return SpoiledPart(views=views)


def _read_like(image: np.ndarray, path: str) -> np.ndarray:
    read = mmcv.imread(path)
    if read.shape != image.shape:
        read = mmcv.imresize(read, (image.shape[1], image.shape[0]))
    return read.astype(image.dtype)
