"""Fixtures for the tests of the synthetic dataset."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes

from nuscenes_synth.boxes import SolidBoxes

Triple = tuple[float, float, float]
Placement = tuple[Triple, Triple]


def boxes_at(*placements: Placement) -> SolidBoxes:
    """Upright boxes from (centre, size) pairs in metres, each its own object."""
    count = len(placements)
    return SolidBoxes(
        centers=np.array([center for center, _ in placements], dtype=float).reshape(-1, 3),
        half_sizes=np.array([size for _, size in placements], dtype=float).reshape(-1, 3) / 2,
        yaws=np.zeros(count),
        textures=np.zeros(count, dtype=int),
        colors=np.zeros((count, 2, 3)),
        reflectivity=np.full(count, 40.0),
        owners=np.arange(count),
    )


@pytest.fixture(scope='session')
def boxes() -> Callable[..., SolidBoxes]:
    """A function that makes boxes from (centre, size) pairs."""
    return boxes_at


@pytest.fixture(scope='session')
def nusc(smallest_nuscenes: Path) -> NuScenes:
    """The smallest synthetic dataset as the nuScenes devkit loads it."""
    return NuScenes('v1.0-trainval', str(smallest_nuscenes), verbose=False)
