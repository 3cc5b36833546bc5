"""What a LiDAR gets through fog or rain."""

import torch
from mmdet3d.structures.points import BasePoints
from numpy.random import Generator
from torch import Tensor

_INTENSITY = 3
_FULL_INTENSITY = 255.0
_NEAREST_ECHO = 1.5
# A surface that reflects a tenth of the light is just seen at this distance in clear air, metres.
_RANGE_OF_DARK_SURFACE = 70.0
_DARK_REFLECTIVITY = 0.1


def scatter_points(
    points: BasePoints, extinction: float, backscatter: float, rng: Generator
) -> BasePoints:
    """Weaken, lose and divert the echoes of a cloud in air that scatters.

    An echo from distance r comes back weaker by ``exp(-2 extinction r)`` (Beer-Lambert, both
    ways), as does its intensity. In clear air its power is ``reflectivity / r^2``, with
    reflectivity as intensity / 255; m is how many times that is above what the sensor can still
    detect, taken as at least 1, because the echo was detected. The echo then survives with
    probability ``min(1, m exp(-2 extinction r))``. Of the lost ones a share comes back from the
    drops: a faint point on the same ray, at a distance that falls off exponentially with the mean
    ``1 / (2 extinction)``. Hahner et al. (ICCV 2021) calculate the pulse in detail; this is its
    outcome in the mean. Distances are from the keyframe's LiDAR for all sweeps.

    Args:
        points: The cloud, LiDAR frame; stays as it is. Intensity 0-255 in column 3 if it has one.
        extinction: Extinction coefficient, 1/m.
        backscatter: Share of the lost echoes that come back from the drops, 0-1.
        rng: Random numbers.

    Returns:
        A new cloud with fewer points, in the same order.
    """
    cloud = points.tensor.clone()
    distance = cloud[:, :3].norm(dim=1).clamp(min=1e-3)
    transmitted = torch.exp(-2 * extinction * distance)
    survives = _draw(rng, len(cloud)) < _detection_margin(cloud, distance) * transmitted
    echo = -torch.log1p(-_draw(rng, len(cloud))) / (2 * extinction) + _NEAREST_ECHO
    diverted = ~survives & (_draw(rng, len(cloud)) < backscatter) & (echo < distance)
    cloud[diverted, :3] *= (echo / distance)[diverted, None]
    if cloud.shape[1] > _INTENSITY:
        cloud[survives, _INTENSITY] *= transmitted[survives]
        cloud[diverted, _INTENSITY] = 0.05 * _FULL_INTENSITY * _draw(rng, len(cloud))[diverted]
    return points.new_point(cloud[survives | diverted])


def _detection_margin(cloud: Tensor, distance: Tensor) -> Tensor:
    """How many times stronger than needed each echo is in clear air, (N,), at least 1."""
    if cloud.shape[1] <= _INTENSITY:
        return torch.ones_like(distance)
    reflectivity = cloud[:, _INTENSITY].clamp(min=0) / _FULL_INTENSITY
    needed = _DARK_REFLECTIVITY * (distance / _RANGE_OF_DARK_SURFACE) ** 2
    return (reflectivity / needed).clamp(min=1)


def _draw(rng: Generator, number: int) -> Tensor:
    """Uniform random numbers in [0, 1), float32 (N,)."""
    return torch.from_numpy(rng.random(number, dtype='float32'))
