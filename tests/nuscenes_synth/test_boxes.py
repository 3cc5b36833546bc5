import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import rotate, translate
from shapely.geometry import box as rectangle

from nuscenes_synth.boxes import footprints_overlap

half_size = st.floats(0.1, 6)
yaw = st.floats(-np.pi, np.pi)


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
