"""Which cells an object belongs to, and what they are taught."""

import math

import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes

from cmt_bias.pretraining import camera_targets

# One camera at the origin looks along x: 100 x 200 pixels, cells of 10 x 10, focal length 100.
LOOKING_ALONG_X = torch.tensor(
    [[[100.0, -100, 0, 0], [50, 0, -100, 0], [1, 0, 0, 0], [0, 0, 0, 1]]]
)
BACKGROUND = 7


def targets(boxes: list[list[float]], labels: list[int]):
    tensor = torch.tensor(boxes).reshape(-1, 7)
    return camera_targets(
        LiDARInstance3DBoxes(tensor, origin=(0.5, 0.5, 0.5)),
        torch.tensor(labels, dtype=torch.int64),
        LOOKING_ALONG_X,
        (100, 200),
        (10, 20),
        BACKGROUND,
    )


def cells(labels: torch.Tensor) -> set[tuple[int, int]]:
    return {tuple(cell) for cell in (labels[0] != BACKGROUND).nonzero().tolist()}


def test_a_small_object_belongs_to_the_cell_of_its_centre():
    found = targets([[20.0, 1.0, 0.5, 0.3, 0.4, 0.5, 0.0]], [3])
    # pixel (100 - 5, 50 - 2.5)
    assert cells(found.labels) == {(4, 9)}
    assert found.labels[0, 4, 9] == 3
    assert found.log_depth[0, 4, 9] == pytest.approx(math.log(20))
    expected = torch.tensor([0.3, 0.4, 0.5]).log()
    torch.testing.assert_close(found.log_size[0, 4, 9], expected)


def test_a_large_object_belongs_to_the_cells_within_half_of_its_extent():
    # a wall 8 m wide and 4 m high at 10 m: 80 x 40 pixels about (100, 50)
    found = targets([[10.0, 0.0, 0.0, 0.01, 8.0, 4.0, 0.0]], [0])
    assert cells(found.labels) == {(row, column) for row in (4, 5) for column in range(8, 12)}


def test_where_objects_meet_the_nearest_is_shown():
    wall = [10.0, 0.0, 0.0, 0.01, 8.0, 4.0, 0.0]
    post = [5.0, -0.25, -0.25, 0.1, 0.1, 0.1, 0.0]  # pixel (105, 55)
    for order in ([wall, post], [post, wall]):
        labels = [1 if box is post else 0 for box in order]
        found = targets(order, labels)
        assert found.labels[0, 5, 10] == 1
        assert found.log_depth[0, 5, 10] == pytest.approx(math.log(5))
        assert found.labels[0, 5, 11] == 0


@pytest.mark.parametrize('position', [[-10.0, 0.0, 0.0], [10.0, 11.0, 0.0], [10.0, 0.0, 6.0]])
def test_what_no_view_sees_belongs_to_no_cell(position):
    found = targets([[*position, 1.0, 1.0, 1.0, 0.0]], [2])
    assert cells(found.labels) == set()
    assert not found.log_depth.any() and not found.log_size.any()


def test_a_sample_without_objects_is_background():
    found = targets([], [])
    assert found.labels.shape == (1, 10, 20) and cells(found.labels) == set()
    assert found.log_size.shape == (1, 10, 20, 3)
