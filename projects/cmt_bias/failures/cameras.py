"""Cameras that show nothing, dirt, another place or another time, or are not where they seem."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import cv2
import mmcv
import numpy as np
from mmdet3d.registry import TRANSFORMS

from ..datasets.modal_mask import black
from ..spoiled_parts import SpoiledPart
from .recorded_files import file_at, file_of_other_scene
from .sensor_failure import Degradation, SensorFailure, setting

Pictures = Sequence[np.ndarray | None]

_DIRT_CELLS = 48  # cells of noise along the longer side of an image
_DIRT_SMOOTHING = 0.05 * _DIRT_CELLS  # standard deviation; spots are about four times as wide


@dataclass(eq=False)
class CameraFailure(SensorFailure):
    """Base of the failures in which some cameras show another picture.

    ``num_views`` is how many, drawn anew for each sample; None for all. A ValueError is raised if
    a sample has fewer.
    """

    spoiled = ('img',)
    _: KW_ONLY
    num_views: int | None = setting(None, 'be 1 or more, or None', lambda n: n is None or n >= 1)

    @abstractmethod
    def pictures(self, results: dict, hit: np.ndarray, rng: np.random.Generator) -> Pictures:
        """What the V cameras show instead, if ``hit`` (V,): (H, W, 3) each; None for their own."""

    def spoil(self, results: dict, rng: np.random.Generator) -> SpoiledPart:
        images = results['img']
        hit = np.ones(len(images), dtype=bool)
        if self.num_views is not None:
            enough = self.num_views <= len(images)
            self.check('num_views', enough, f'not exceed the {len(images)} cameras of a sample')
            hit = np.isin(np.arange(len(images)), rng.permutation(len(images))[: self.num_views])
        pictures = self.pictures(results, hit, rng)
        hit &= np.array([picture is not None for picture in pictures], dtype=bool)
        results['img'] = [
            np.ascontiguousarray(new) if failed else old
            for old, new, failed in zip(images, pictures, hit, strict=True)
        ]
        return SpoiledPart(views=hit)


@TRANSFORMS.register_module()
class CameraDrop(CameraFailure):
    """Missing cameras: their images are black. The "view drop" of nuScenes-R and MoME."""

    def pictures(self, results: dict, hit: np.ndarray, rng: np.random.Generator) -> Pictures:
        return black(results['img'])


@TRANSFORMS.register_module()
class CameraMirror(CameraFailure):
    """Cameras that show left and right exchanged."""

    def pictures(self, results: dict, hit: np.ndarray, rng: np.random.Generator) -> Pictures:
        return [image[:, ::-1] for image in results['img']]


@TRANSFORMS.register_module()
@dataclass(eq=False)
class CameraShift(CameraFailure):
    """Cameras that were knocked aside: their pictures are shifted to the left or right.

    The shift is a ``share`` of the width. One by a tenth turns a camera of nuScenes by about 6
    degrees; what it does not see any more is black.
    """

    share: float = setting(0.15, 'lie within (0, 1)', lambda share: 0 < share < 1)

    def pictures(self, results: dict, hit: np.ndarray, rng: np.random.Generator) -> Pictures:
        shifted = []
        for image, sign in zip(results['img'], rng.choice((-1, 1), len(hit)), strict=True):
            height, width = image.shape[:2]
            motion = np.array([[1.0, 0.0, sign * round(self.share * width)], [0.0, 1.0, 0.0]])
            shifted.append(cv2.warpAffine(image, motion, (width, height), flags=cv2.INTER_NEAREST))
        return shifted


def _read_instead(
    results: dict, hit: np.ndarray, other_file: Callable[[str], str | None]
) -> Pictures:
    """The files that cameras show instead of theirs, in the size and dtype of the own ones."""
    pictures: list[np.ndarray | None] = [None] * len(hit)
    for view in np.flatnonzero(hit):
        other = other_file(results['filename'][view])
        if other is not None:
            own, read = results['img'][view], mmcv.imread(other)
            if read.shape != own.shape:
                read = mmcv.imresize(read, (own.shape[1], own.shape[0]))
            pictures[view] = read.astype(own.dtype)
    return pictures


@TRANSFORMS.register_module()
@dataclass(eq=False)
class CameraFrozen(CameraFailure):
    """Cameras that show the picture of some ``seconds`` ago; the calibration is that of now.

    At the beginning of a recording they show as much later ones; where there are neither, nothing
    changes.
    """

    seconds: float = setting(2.0, 'be positive', lambda seconds: seconds > 0)

    def pictures(self, results: dict, hit: np.ndarray, rng: np.random.Generator) -> Pictures:
        return _read_instead(results, hit, lambda path: file_at(path, self.seconds))


@TRANSFORMS.register_module()
class CameraForeignScene(CameraFailure):
    """Cameras that show a picture of another scene, each its own, if there is any.

    It is drawn from all files of the camera's folder, whatever split they belong to: a training
    may see pictures of validation scenes (without their boxes), a test those of training scenes.
    """

    def pictures(self, results: dict, hit: np.ndarray, rng: np.random.Generator) -> Pictures:
        return _read_instead(results, hit, lambda path: file_of_other_scene(path, rng))


@TRANSFORMS.register_module()
@dataclass(eq=False)
class CameraOcclusion(CameraFailure):
    """Dirt on the lenses: black patches on every image, another pattern for each camera.

    nuScenes-R and MoME lay photographs of dirty glass over the images; here it is smoothed noise
    above a threshold, which covers exactly the given ``share`` of the pixels.
    """

    share: float = setting(0.4, 'lie within (0, 1)', lambda share: 0 < share < 1)

    def pictures(self, results: dict, hit: np.ndarray, rng: np.random.Generator) -> Pictures:
        return [self._dirty(image, rng) for image in results['img']]

    def _dirty(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        cell = max(height, width) / _DIRT_CELLS
        cells = (max(2, round(height / cell)), max(2, round(width / cell)))
        noise = rng.standard_normal(cells).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), sigmaX=_DIRT_SMOOTHING)
        smooth = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC)
        number = max(1, round(self.share * smooth.size))
        covered = np.argpartition(smooth, -number, axis=None)[-number:]
        dirty = image.copy()
        dirty.reshape(height * width, -1)[covered] = 0
        return dirty


@TRANSFORMS.register_module()
class CalibrationError(Degradation):
    """A wrong mounting of each camera against the LiDAR; points and images stay as they are.

    MultiCorrupt's "spatial misalignment". Each camera of each sample gets a small motion E of its
    own, a rotation about a random axis and a translation in a random direction, in its camera
    frame: ``lidar2cam`` (V, 4, 4) becomes ``E lidar2cam``, and ``lidar2img`` follows with the true
    ``cam2img``. ``ori_lidar2img`` keeps the truth.
    """

    spoiled = ('lidar2img', 'lidar2cam')
    levels = ((0.5, 0.05), (1.0, 0.1), (2.0, 0.2))
    """Standard deviations of angle and distance: degrees, metres."""

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        cam2img = np.asarray(results['cam2img'], dtype=np.float64)
        errors = np.stack([self._motion(rng) for _ in cam2img])
        if 'lidar2cam' in results:
            results['lidar2cam'] = errors @ np.asarray(results['lidar2cam'], dtype=np.float64)
        if 'lidar2img' in results:
            in_pixels = cam2img @ errors @ np.linalg.inv(cam2img)
            results['lidar2img'] = in_pixels @ np.asarray(results['lidar2img'], dtype=np.float64)

    def _motion(self, rng: np.random.Generator) -> np.ndarray:
        degrees, metres = self.level
        motion = np.eye(4)
        axis = _direction(rng)
        motion[:3, :3] = cv2.Rodrigues(axis * np.deg2rad(rng.normal(0, degrees)))[0]
        motion[:3, 3] = _direction(rng) * rng.normal(0, metres)
        return motion


def _direction(rng: np.random.Generator) -> np.ndarray:
    """A unit vector (3,), uniform over the sphere."""
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)
