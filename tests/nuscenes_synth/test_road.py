import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuscenes_synth.road import Ground, Road


def make_road(curvature=0.0, heading=0.0, crossing_s=None):
    return Road((100.0, 50.0), heading, curvature, (2.4, 5.4), crossing_s)


@settings(derandomize=True, deadline=None)
@given(
    curvature=st.sampled_from([0.0, 1 / 60, -1 / 60, 1 / 150]),
    heading=st.floats(-np.pi, np.pi),
    s=st.floats(-75, 110),
    d=st.floats(-30, 30),
)
def test_world_and_road_coordinates_are_inverse(curvature, heading, s, d):
    road = make_road(curvature, heading)
    x, y, _ = road.to_world(s, d)
    back_s, back_d = road.from_world(np.array([x]), np.array([y]))
    np.testing.assert_allclose([back_s[0], back_d[0]], [s, d], atol=1e-6)


def test_heading_is_the_tangent():
    road = make_road(curvature=1 / 80, heading=0.4)
    x, y, heading = road.to_world(np.array([10.0, 10.001]), 0.0)
    np.testing.assert_allclose(np.arctan2(np.diff(y), np.diff(x))[0], heading[0], atol=1e-4)


def test_left_of_the_road_has_positive_offset():
    x, y, _ = make_road().to_world(0.0, 3.0)
    assert (float(x), float(y)) == (100.0, 53.0)


@pytest.mark.parametrize(
    ('d', 'ground'),
    [
        (0.15, Ground.YELLOW_MARKING),
        (-1.75, Ground.ASPHALT),
        (-8.0, Ground.PARKING),
        (-10.5, Ground.SIDEWALK),
        (8.0, Ground.PARKING),
        (11.5, Ground.PARKING),
        (14.0, Ground.SIDEWALK),
        (-20.0, Ground.GRASS),
    ],
)
def test_ground_follows_the_cross_section(d, ground):
    x, y, _ = make_road().to_world(np.array([4.0]), np.array([d]))
    assert make_road().ground_at(x, y)[0] == ground


def test_crossing_road_cuts_through_the_sidewalk():
    road = make_road(crossing_s=20.0)
    x, y, _ = road.to_world(np.array([20.9, 40.0]), np.array([-11.0, -11.0]))
    assert road.ground_at(x, y).tolist() == [Ground.ASPHALT, Ground.SIDEWALK]


def test_bend_with_crossing_is_refused():
    with pytest.raises(ValueError, match='straight'):
        make_road(curvature=0.01, crossing_s=5.0)
