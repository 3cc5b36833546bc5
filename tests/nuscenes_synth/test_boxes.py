import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import rotate, translate
from shapely.geometry import box as rectangle

from nuscenes_synth.boxes import footprints_overlap, intersect_box, yaw_rotation

coordinate = st.floats(-20, 20)
half_size = st.floats(0.1, 6)
yaw = st.floats(-np.pi, np.pi)


@settings(derandomize=True, deadline=None)
@given(
    center=st.tuples(coordinate, coordinate, coordinate),
    halves=st.tuples(half_size, half_size, half_size),
    yaw=yaw,
    direction=st.tuples(*[st.floats(-1, 1)] * 3),
)
def test_ray_hits_first_surface_or_misses(center, halves, yaw, direction):
    """Compared with small steps along the ray."""
    direction = np.array(direction)
    if np.linalg.norm(direction) < 0.1:
        return
    direction = direction / np.linalg.norm(direction)
    center, halves = np.array(center), np.array(halves)
    distance = float(
        intersect_box(np.zeros(3), direction.astype(np.float32)[None], center, halves, yaw)[0]
    )
    steps = np.linspace(0, 80, 40001)[:, None]
    local = (steps * direction - center) @ yaw_rotation(yaw)
    inside = (np.abs(local) <= halves - 0.01).all(axis=1)
    if inside[0] or (np.abs(local[0]) <= halves + 0.01).all():
        return  # starts in or on the box, where the result is infinity by definition
    if np.isfinite(distance):
        surface = (distance * direction - center) @ yaw_rotation(yaw)
        np.testing.assert_allclose(np.max(np.abs(surface) - halves), 0, atol=1e-3)
        assert not inside[steps[:, 0] < distance - 0.01].any()
    else:
        assert not inside.any()


def test_ray_that_starts_inside_a_box_does_not_see_it():
    hit = intersect_box(np.zeros(3), np.eye(3, dtype=np.float32), np.zeros(3), np.ones(3), 0.3)
    assert np.isinf(hit).all()


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    offset=st.tuples(st.floats(-8, 8), st.floats(-8, 8)),
    half_a=st.tuples(half_size, half_size),
    half_b=st.tuples(half_size, half_size),
    yaw_a=yaw,
    yaw_b=yaw,
)
def test_footprints_overlap_as_shapely_says(offset, half_a, half_b, yaw_a, yaw_b):
    def polygon(center, half, angle):
        shape = rectangle(-half[0], -half[1], half[0], half[1])
        return translate(rotate(shape, angle, use_radians=True), *center)

    first, second = polygon((0, 0), half_a, yaw_a), polygon(offset, half_b, yaw_b)
    area = first.intersection(second).area
    if 0 < area < 1e-6 or (area == 0 and first.distance(second) < 1e-6):
        return  # touching: either answer is right
    result = footprints_overlap(
        np.zeros((1, 2)),
        np.array([half_a]),
        np.array([yaw_a]),
        np.array([offset]),
        np.array([half_b]),
        np.array([yaw_b]),
    )
    assert bool(result[0]) == (area > 0)
