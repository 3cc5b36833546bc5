"""Overlap of boxes against exact polygons, points in boxes against mmdet3d."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.structures.ops import box_np_ops
from shapely.geometry import Polygon

from cmt_bias.datasets.box_overlap import overlap_on_ground, points_in_boxes

SEEDS = st.integers(0, 2**31 - 1)


def crowded_boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    boxes = rng.uniform([-6, -6, -1, 0.3, 0.3, 0.5, -4], [6, 6, 1, 6, 3, 2, 4], (number, 7))
    return boxes.astype(np.float64)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_boxes_overlap_where_their_polygons_share_an_area(seed):
    rng = np.random.default_rng(seed)
    boxes, others = crowded_boxes(rng, 6), crowded_boxes(rng, 5)
    found = np.stack([overlap_on_ground(box, others) for box in boxes])
    polygons = [
        [
            Polygon(box_np_ops.center_to_corner_box2d(b[None, :2], b[None, 3:5], b[None, 6])[0])
            for b in group
        ]
        for group in (boxes, others)
    ]
    for row, polygon in enumerate(polygons[0]):
        for column, other in enumerate(polygons[1]):
            shared = polygon.intersection(other).area
            if not 0 < shared < 1e-6:
                assert found[row, column] == (shared > 0)


def test_a_box_inside_another_and_a_cross_overlap():
    big = np.array([[0, 0, 0, 6, 4, 1, 0.3]])
    small = np.array([[0.2, 0.1, 0, 0.5, 0.5, 1, 1.0]])
    bar = np.array([[0, 0, 0, 0.5, 20, 1, 0.3]])
    assert overlap_on_ground(big[0], small).all()
    assert overlap_on_ground(small[0], big).all()
    assert overlap_on_ground(big[0], bar).all()
    assert overlap_on_ground(big[0], np.zeros((0, 7))).shape == (0,)


def test_boxes_that_only_touch_are_apart():
    box = np.array([0.0, 0, 0, 4, 2, 1, 0])
    touching = np.array([[4.0, 0, 0, 4, 2, 1, 0], [0, 2, 0, 4, 2, 1, 0], [4, 2, 0, 4, 2, 1, 0]])
    assert not overlap_on_ground(box, touching).any()
    assert overlap_on_ground(box, touching - [1e-6, 1e-6, 0, 0, 0, 0, 0]).all()


def test_a_box_with_nan_overlaps_nothing():
    box = np.array([0.0, 0, 0, 4, 2, 1, 0])
    others = np.array([box, box])
    others[0, 3] = np.nan
    assert overlap_on_ground(box, others).tolist() == [False, True]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_points_inside_are_those_that_mmdet3d_finds(seed):
    rng = np.random.default_rng(seed)
    boxes = crowded_boxes(rng, 5)
    points = rng.uniform([-8, -8, -2, 0], [8, 8, 4, 1], (400, 4))
    expected = box_np_ops.points_in_rbbox(points, boxes)
    np.testing.assert_array_equal(points_in_boxes(points, boxes), expected)


def test_without_boxes_no_point_is_inside():
    assert points_in_boxes(np.zeros((3, 3)), np.zeros((0, 7))).shape == (3, 0)
