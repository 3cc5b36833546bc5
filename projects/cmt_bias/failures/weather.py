"""Rain, fog and night."""

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import BasePoints
from torch import Tensor

from .lidar import check_columns
from .sensor_failure import Degradation

_VEIL = 160.0  # grey of the air full of drops
_STREAK = 200.0
_NOMINAL_WIDTH = 1600  # image width for which blur and width of streaks are given

_INTENSITY = 3
_FULL_INTENSITY = 255.0
_NEAREST_ECHO = 1.5
# A surface that reflects a tenth of the light is just seen at this distance in clear air, metres.
_RANGE_OF_DARK_SURFACE = 70.0
_DARK_REFLECTIVITY = 0.1


@TRANSFORMS.register_module()
class CameraNight(Degradation):
    """Darker images with the noise of a high gain, as MultiCorrupt's "dark".

    A value v in 0-255 becomes ``255 gain (v / 255)^gamma`` with shot noise (variance proportional
    to the value) and read noise. The LiDAR brings its own light and sees as by day.
    """

    spoiled = ('img',)
    levels = ((1.5, 0.6, 4.0), (2.0, 0.4, 8.0), (2.5, 0.25, 12.0))
    """Gamma, gain, standard deviation of the read noise."""

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        results['img'] = [self._darken(image, rng) for image in results['img']]

    def _darken(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        gamma, gain, read_noise = self.level
        light = np.clip(image.astype(np.float32), 0, 255) / 255
        dark = 255 * gain * light**gamma
        deviation = np.sqrt(read_noise**2 + read_noise * dark)
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        return _as_image(dark + deviation * noise, image.dtype)


@TRANSFORMS.register_module()
class LiDARFog(Degradation):
    """Fog on the points: attenuation with distance, and echoes from the fog itself.

    A level is a meteorological optical range, at which the contrast has fallen to 5 %: the
    extinction coefficient is ``ln 20 / range``. Half of the lost echoes come back from the fog.
    See :func:`scatter_points`. The images stay clear.
    """

    spoiled = ('points',)
    levels = (200.0, 100.0, 50.0)
    """Metres."""

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        results['points'] = scatter_points(results['points'], math.log(20) / self.level, 0.5, rng)


class RainLevel(NamedTuple):
    """One strength of rain."""

    extinction: float  # of the air for the LiDAR, 1/m
    lost: float  # share of points lost to wet surfaces and drops on the sensor, at any distance
    range_noise: float  # standard deviation of the distance, metres
    streaks: float  # streaks per million pixels
    blur: float  # deviation of the blur by drops on the lens, pixels of a 1600 wide image
    veil: float  # share of the grey veil over the image, 0-1


@TRANSFORMS.register_module()
class Rain(Degradation):
    """Rain on both sensors, from light to heavy; on the one that the sample has, if only one.

    Points: the air scatters (:func:`scatter_points`, a fifth of the lost echoes come back from
    drops), wet surfaces lose more at random, and the distance of the others gets noise. Images:
    a grey veil, blur, and bright streaks, all slanting alike in a sample.
    """

    spoiled = ('points', 'img')
    level: RainLevel
    levels = (
        RainLevel(0.003, 0.05, 0.02, 300, 1.0, 0.1),
        RainLevel(0.006, 0.15, 0.05, 700, 2.0, 0.2),
        RainLevel(0.012, 0.30, 0.10, 1500, 3.5, 0.35),
    )

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        if 'points' in results:
            points = results['points']
            kept = torch.from_numpy(rng.random(len(points)) >= self.level.lost)
            cloud = scatter_points(points[kept], self.level.extinction, 0.2, rng)
            distance = cloud.tensor[:, :3].norm(dim=1).clamp(min=1e-3)
            noise = rng.standard_normal(len(distance)).astype(np.float32)
            shift = torch.from_numpy(self.level.range_noise * noise)
            cloud.tensor[:, :3] *= (1 + shift / distance)[:, None]
            results['points'] = cloud
        if 'img' in results:
            slant = rng.uniform(-0.3, 0.3)  # horizontal over vertical extent of the streaks
            results['img'] = [self._rain_on(image, slant, rng) for image in results['img']]

    def _rain_on(self, image: np.ndarray, slant: float, rng: np.random.Generator) -> np.ndarray:
        level = self.level
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
        return _as_image(blurred + streaks[..., None] * (_STREAK - blurred), image.dtype)


def _as_image(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values cut to 0-255, in the images' dtype; rounded where that has whole numbers only."""
    values = np.clip(values, 0, 255)
    return (np.rint(values) if np.issubdtype(dtype, np.integer) else values).astype(dtype)


def scatter_points(
    points: BasePoints, extinction: float, backscatter: float, rng: np.random.Generator
) -> BasePoints:
    """A new cloud, in the same order: air that scatters weakens, loses and diverts its echoes.

    An echo from distance r comes back weaker by ``exp(-2 extinction r)`` (Beer-Lambert, both
    ways), as does its intensity. In clear air its power is ``reflectivity / r^2``, with
    reflectivity as intensity / 255; m is how many times that is above what the sensor can still
    detect, taken as at least 1, because the echo was detected. The echo then survives with
    probability ``min(1, m exp(-2 extinction r))``. Of the lost ones a share comes back from the
    drops: a faint point on the same ray, at a distance that falls off exponentially with the mean
    ``1 / (2 extinction)``. Hahner et al. (ICCV 2021) calculate the pulse in detail; this is its
    outcome in the mean. Distances are from the keyframe's LiDAR for all sweeps.

    The cloud, LiDAR frame, stays as it is; intensity 0-255 is its column 3, if it has one.
    ``extinction`` is in 1/m, ``backscatter`` the share of lost echoes that come back, 0-1.
    """

    def draw() -> Tensor:
        return torch.from_numpy(rng.random(len(cloud), dtype='float32'))

    check_columns(points.tensor)
    cloud = points.tensor.clone()
    distance = cloud[:, :3].norm(dim=1).clamp(min=1e-3)
    transmitted = torch.exp(-2 * extinction * distance)
    margin = torch.ones_like(distance)  # times stronger than needed in clear air
    has_intensity = cloud.shape[1] > _INTENSITY
    if has_intensity:
        reflectivity = cloud[:, _INTENSITY].clamp(min=0) / _FULL_INTENSITY
        needed = _DARK_REFLECTIVITY * (distance / _RANGE_OF_DARK_SURFACE) ** 2
        margin = (reflectivity / needed).clamp(min=1)
    survives = draw() < margin * transmitted
    echo = -torch.log1p(-draw()) / (2 * extinction) + _NEAREST_ECHO
    diverted = ~survives & (draw() < backscatter) & (echo < distance)
    cloud[diverted, :3] *= (echo / distance)[diverted, None]
    if has_intensity:
        cloud[survives, _INTENSITY] *= transmitted[survives]
        cloud[diverted, _INTENSITY] = 0.05 * _FULL_INTENSITY * draw()[diverted]
    return points.new_point(cloud[survives | diverted])
