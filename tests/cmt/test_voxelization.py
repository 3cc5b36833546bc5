"""Voxels of a cloud: spconv's own below the cap, the first of the shuffled points over it.

The released code voxelizes with spconv, this package with mmcv. With voxels of 0.075 m a cloud of
eleven sweeps has up to 159 000 of them; in training at most 120 000 are kept.
"""

import numpy as np
import pytest
import torch
from cumm import tensorview
from mmdet3d.models.data_preprocessors.voxelize import VoxelizationByGridShape
from spconv.utils import Point2VoxelCPU3d

RANGE = [-4.0, -4.0, -1.0, 4.0, 4.0, 1.0]
SIZE = [0.5, 0.5, 0.5]
MAX_POINTS = 3


@pytest.fixture(scope='module')
def points() -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(0).uniform([-5, -5, -1, 0], [5, 5, 1, 1], (1500, 4))
    ).float()


def voxelize(points: torch.Tensor, cap: int) -> tuple[np.ndarray, ...]:
    """Points (V, 3, 4), coordinates (V, 3) and numbers of points (V,) of the voxels."""
    layer = VoxelizationByGridShape(RANGE, MAX_POINTS, voxel_size=SIZE, max_voxels=cap)
    return tuple(values.numpy() for values in layer(points))


def cells_in_order(points: torch.Tensor) -> np.ndarray:
    """Cells z, y, x of the points inside the range, each when it is first hit."""
    inside = (
        (points[:, :3] >= torch.tensor(RANGE[:3])) & (points[:, :3] < torch.tensor(RANGE[3:]))
    ).all(1)
    cells = ((points[inside, :3] - torch.tensor(RANGE[:3])) / torch.tensor(SIZE)).long().numpy()
    _, first = np.unique(cells, axis=0, return_index=True)
    return cells[np.sort(first)][:, ::-1]


def test_below_the_cap_the_voxels_are_spconvs(points):
    released = Point2VoxelCPU3d(SIZE, RANGE, 4, 5000, MAX_POINTS)
    expected = [v.numpy() for v in released.point_to_voxel(tensorview.from_numpy(points.numpy()))]
    actual = voxelize(points, 5000)
    orders = [np.lexsort(coordinates.T) for coordinates in (actual[1], expected[1])]
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(ours[orders[0]], theirs[orders[1]])


@pytest.mark.parametrize('cap', [50, 200])
def test_over_the_cap_the_voxels_that_the_points_hit_first_are_kept(points, cap):
    cells = cells_in_order(points)
    assert len(cells) > cap
    np.testing.assert_array_equal(voxelize(points, cap)[1], cells[:cap])
    shuffled = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))]
    np.testing.assert_array_equal(voxelize(shuffled, cap)[1], cells_in_order(shuffled)[:cap])
