"""Rain, on the images and on the points."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import BasePoints

from .image_values import as_image
from .scattering import scatter_points
from .sensor_failure import SensorFailure
from .severity import at_severity

_VEIL = 160.0  # grey of the air full of drops
_STREAK = 200.0
_NOMINAL_WIDTH = 1600  # image width for which blur and width of streaks are given


@dataclass(frozen=True)
class _RainLevel:
    """One strength of rain.

    Attributes:
        extinction: Of the air for the LiDAR, 1/m.
        lost: Share of points lost to wet surfaces and drops on the sensor, at any distance.
        range_noise: Standard deviation of the distance, metres.
        streaks: Streaks per million pixels.
        blur: Standard deviation of the blur by drops on the lens, pixels of a 1600 wide image.
        veil: Share of the grey veil over the image, 0-1.
    """

    extinction: float
    lost: float
    range_noise: float
    streaks: float
    blur: float
    veil: float


_LEVELS = (
    _RainLevel(0.003, 0.05, 0.02, 300, 1.0, 0.1),
    _RainLevel(0.006, 0.15, 0.05, 700, 2.0, 0.2),
    _RainLevel(0.012, 0.30, 0.10, 1500, 3.5, 0.35),
)


@TRANSFORMS.register_module()
class Rain(SensorFailure):
    """Rain on both sensors; on the one that the sample has, if it has only one.

    Points: the air scatters (:func:`scatter_points`, a fifth of the lost echoes come back from
    drops), wet surfaces lose more at random, and the distance of the others gets noise. Images:
    a grey veil, blur, and bright streaks, all slanting alike in a sample. Severity 1 to 3 goes
    from light to heavy rain; the strengths are our own and stand in ``_LEVELS``.

    Args:
        severity: 1 to 3.
        seed: Seed of the draw.
    """

    spoiled = ('points', 'img')

    def __init__(self, severity: int = 2, seed: int = 0) -> None:
        super().__init__(seed)
        self.severity = severity
        at_severity(_LEVELS, severity, 'Rain')

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        """See :meth:`SensorFailure.spoil`."""
        level = at_severity(_LEVELS, self.severity, 'Rain')
        if 'points' in results:
            results['points'] = _rain_on_points(results['points'], level, rng)
        if 'img' in results:
            slant = rng.uniform(-0.3, 0.3)
            results['img'] = [_rain_on_image(image, level, slant, rng) for image in results['img']]


def _rain_on_points(points: BasePoints, level: _RainLevel, rng: np.random.Generator) -> BasePoints:
    kept = torch.from_numpy(rng.random(len(points)) >= level.lost)
    cloud = scatter_points(points[kept], level.extinction, 0.2, rng)
    distance = cloud.tensor[:, :3].norm(dim=1).clamp(min=1e-3)
    noise = level.range_noise * rng.standard_normal(len(distance)).astype(np.float32)
    cloud.tensor[:, :3] *= (1 + torch.from_numpy(noise) / distance)[:, None]
    return cloud


def _rain_on_image(
    image: np.ndarray, level: _RainLevel, slant: float, rng: np.random.Generator
) -> np.ndarray:
    """The image in rain; ``slant`` is the streaks' horizontal over their vertical extent."""
    height, width = image.shape[:2]
    veiled = (1 - level.veil) * image.astype(np.float32) + level.veil * _VEIL
    blurred = cv2.GaussianBlur(veiled, (0, 0), sigmaX=level.blur * width / _NOMINAL_WIDTH)
    streaks = np.zeros((height, width), dtype=np.float32)
    number = max(1, round(level.streaks * height * width / 1e6))
    tops = rng.uniform((-0.1 * height, 0), (height, width), (number, 2))
    lengths = rng.uniform(0.03, 0.1, number) * height
    thickness = max(1, round(2 * width / _NOMINAL_WIDTH))
    for (row, column), length in zip(tops, lengths, strict=True):
        start = (round(column), round(row))
        end = (round(column + slant * length), round(row + length))
        cv2.line(streaks, start, end, (0.5,), thickness)
    shown = blurred + streaks[..., None] * (_STREAK - blurred)
    return as_image(shown, image.dtype)
