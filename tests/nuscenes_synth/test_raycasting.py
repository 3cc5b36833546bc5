"""The ray caster against the slab method and against the plane's own equation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuscenes_synth.boxes import CORNER_SIGNS, FACE_CORNERS, FACE_NORMALS, SolidBoxes
from nuscenes_synth.raycasting import TRIANGLES_PER_BOX, RayCaster, Rays


def distances_by_slabs(boxes: SolidBoxes, origin: np.ndarray, directions: np.ndarray):
    """(rays, boxes) multiples of a direction to the first surface of each box, or infinity."""
    cos, sin = np.cos(boxes.yaws), np.sin(boxes.yaws)
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    to_box = np.array([[cos, sin, zero], [-sin, cos, zero], [zero, zero, one]])  # (3, 3, N)
    start = np.einsum('ijn,nj->ni', to_box, origin - boxes.centers)
    step = np.einsum('ijn,rj->rni', to_box, directions)
    with np.errstate(divide='ignore', invalid='ignore'):
        ends = (np.array([-1, 1])[:, None, None, None] * boxes.half_sizes - start) / step
    near, far = np.nanmax(ends.min(axis=0), axis=-1), np.nanmin(ends.max(axis=0), axis=-1)
    return np.where((near <= far) & (near > 0), near, np.inf)


@given(seed=st.integers(0, 10_000))
def test_first_surface_is_that_of_the_slab_method(seed):
    rng = np.random.default_rng(seed)
    count = 12
    boxes = SolidBoxes(
        centers=np.column_stack([rng.uniform(-30, 30, (count, 2)), rng.uniform(1, 6, count)]),
        half_sizes=rng.uniform(0.1, 3.0, (count, 3)),
        yaws=rng.uniform(-np.pi, np.pi, count),
        textures=np.zeros(count, dtype=int),
        colors=np.zeros((count, 2, 3)),
        reflectivity=np.zeros(count),
        owners=np.arange(count),
    )
    origin = np.array([0.0, 0.0, 20.0])  # above all boxes
    aims = boxes.centers[rng.integers(count, size=200)] + rng.normal(0, 2, (200, 3))
    directions = aims - origin
    hits = RayCaster(boxes).cast(Rays(origin, directions))
    to_ground = np.where(directions[:, 2] < 0, -origin[2] / directions[:, 2], np.inf)
    by_box = distances_by_slabs(boxes, origin, directions)
    expected = np.minimum(by_box.min(axis=1), to_ground)
    # A ray along an edge may go either way.
    close = np.isclose(hits.distance, expected, rtol=1e-4)
    assert np.count_nonzero(~(close | (np.isinf(expected) & np.isinf(hits.distance)))) <= 1
    on_box = (hits.triangle >= 0) & close
    assert (hits.triangle[on_box] // TRIANGLES_PER_BOX == by_box[on_box].argmin(axis=1)).all()
    assert on_box.any()


def test_ground_and_sky_are_no_box(boxes):
    directions = np.array([[1.0, 0.0, -0.5], [1.0, 0.0, 0.5], [1.0, 0.0, 0.0]])
    hits = RayCaster(boxes()).cast(Rays(np.array([0.0, 0.0, 2.0]), directions))
    assert hits.distance.tolist() == [4.0, np.inf, np.inf]
    assert hits.triangle.tolist() == [-1, -1, -1]


def test_a_box_sunk_into_the_ground_is_hidden_below_it(boxes):
    solids = boxes(((10.0, 0.0, -1.0), (2.0, 2.0, 1.0)))
    hits = RayCaster(solids).cast(Rays(np.array([0.0, 0.0, 2.0]), np.array([[10.0, 0.0, -2.5]])))
    assert hits.triangle.tolist() == [-1]


@pytest.mark.parametrize('face', range(6))
def test_triangle_and_barycentric_coordinates_give_the_point_on_the_face(boxes, face):
    solids = boxes(((0.0, 0.0, 5.0), (4.0, 3.0, 2.0)))
    solids = dataclasses.replace(solids, yaws=np.array([0.4]))
    corners = solids.corners()[0][FACE_CORNERS[face]]
    origin = solids.centers[0] + 8.0 * (corners.mean(axis=0) - solids.centers[0])
    origin[2] = max(origin[2], 0.5)
    a, b = np.random.default_rng(face).uniform(0.02, 0.98, (2, 50, 1))
    points = corners[0] + a * (corners[1] - corners[0]) + b * (corners[3] - corners[0])
    hits = RayCaster(solids).cast(Rays(origin, points - origin))
    there = np.isclose(hits.distance, 1.0, atol=1e-3)  # not the ground, nor another face
    assert there.sum() > 20
    assert (hits.triangle[there] // 2 == face).all()
    second = (hits.triangle[there] % 2)[:, None]
    found = np.abs(second - hits.uv[there])
    np.testing.assert_allclose(found, np.hstack([a, b])[there], atol=1e-3)


def test_face_normals_point_away_from_the_middle():
    middles = CORNER_SIGNS[FACE_CORNERS].mean(axis=1)
    np.testing.assert_array_equal(middles, FACE_NORMALS)
