import dataclasses

import numpy as np
import pytest

from nuscenes_synth.lidar import LidarSimulator
from nuscenes_synth.raycasting import RayCaster
from nuscenes_synth.rig import LIDAR
from nuscenes_synth.weather import WEATHERS

SENSOR_HEIGHT = 1.84
NOISE = 5 * 0.015


# Level, at the middle of the vehicle: the sensor's frame is the vehicle's, lifted.
LEVEL = dataclasses.replace(
    LIDAR, rotation=(1.0, 0.0, 0.0, 0.0), translation=(0.0, 0.0, SENSOR_HEIGHT)
)


def scan(solids, weather='day', seed=0):
    simulator = LidarSimulator(LEVEL, 360)
    return simulator.scan(RayCaster(solids), WEATHERS[weather], np.random.default_rng(seed))


def test_points_are_five_floats_in_firing_order(boxes):
    points = scan(boxes())
    assert points.dtype == np.float32
    assert points.shape[1] == 5
    azimuth_steps = np.diff(np.degrees(np.arctan2(points[:, 1], points[:, 0])))
    assert (azimuth_steps < 0.01).all(), 'clockwise, as the real sensor turns'


def test_each_ring_has_its_own_elevation(boxes):
    points = scan(boxes(((0.0, 30.0, 10.0), (80.0, 1.0, 20.0))))
    elevation = np.arctan2(points[:, 2], np.linalg.norm(points[:, :2], axis=1))
    expected = LIDAR.ring_elevations()[points[:, 4].astype(int)]
    np.testing.assert_allclose(elevation, expected, atol=1e-5)
    assert set(points[:, 4].astype(int)) == set(range(32))


def test_empty_world_returns_the_ground_and_nothing_above_the_horizon(boxes):
    points = scan(boxes())
    assert abs(np.median(points[:, 2]) + SENSOR_HEIGHT) < 0.01
    assert points[:, 2].max() < 0


def test_wall_is_measured_where_it_stands(boxes):
    points = scan(boxes(((0.0, 20.5, 5.0), (200.0, 1.0, 10.0))))
    on_wall = points[points[:, 2] > -1.0]
    assert len(on_wall) > 500
    np.testing.assert_allclose(on_wall[:, 1].min(), 20.0, atol=NOISE)
    np.testing.assert_allclose(on_wall[:, 1].max(), 20.0, atol=NOISE)


def test_object_behind_a_wall_gets_no_points(boxes):
    hidden = ((0.0, 26.0, 1.0), (4.0, 4.0, 2.0))
    wall = ((0.0, 20.0, 5.0), (60.0, 1.0, 10.0))

    def points_at_hidden(points):
        offset = np.abs(points[:, :3] - [0.0, 26.0, 1.0 - SENSOR_HEIGHT])
        return int((offset < [2.1, 2.1, 0.9]).all(axis=1).sum())

    assert points_at_hidden(scan(boxes(hidden))) > 5
    assert points_at_hidden(scan(boxes(hidden, wall))) == 0


def test_object_straight_behind_the_sensor_is_hit_across_the_azimuth_wrap(boxes):
    points = scan(boxes(((-10.0, 0.0, 1.0), (2.0, 4.0, 2.0))))
    on_object = points[np.abs(points[:, 0] + 9.0) < NOISE]
    on_object = on_object[on_object[:, 2] > -1.5]
    assert on_object[:, 1].min() < -1.7 and on_object[:, 1].max() > 1.7


def test_nearer_objects_return_more_points(boxes):
    counts = []
    for distance in (10.0, 20.0, 40.0):
        points = scan(boxes(((0.0, distance, 1.0), (2.0, 2.0, 2.0))))
        near = np.abs(points[:, :3] - [0.0, distance, 1.0 - SENSOR_HEIGHT]) < [1.1, 1.1, 0.95]
        counts.append(int(near.all(axis=1).sum()))
    assert counts[0] > 2 * counts[1] > 2 * counts[2] > 0


def test_rain_loses_points_more_so_far_away_and_adds_clutter_close_by(boxes):
    wall = boxes(((0.0, 40.0, 5.0), (200.0, 1.0, 10.0)))
    dry, wet = scan(wall), scan(wall, 'rain')
    dry_range, wet_range = (np.linalg.norm(points[:, :3], axis=1) for points in (dry, wet))
    near = (wet_range < 10).sum() / (dry_range < 10).sum()
    far = (wet_range > 40).sum() / (dry_range > 40).sum()
    assert far < near < 1
    assert 0.25 < far < 0.7
    drops = (wet_range < 8) & (wet[:, 2] > -1.0)
    assert drops.any() and not ((dry_range < 8) & (dry[:, 2] > -1.0)).any()


@pytest.mark.parametrize('weather', list(WEATHERS))
def test_same_seed_gives_the_same_points(weather, boxes):
    solids = boxes(((5.0, 9.0, 1.0), (2.0, 4.0, 2.0)))
    np.testing.assert_array_equal(scan(solids, weather), scan(solids, weather))
    assert len(scan(solids, weather)) != len(scan(solids, weather, seed=1))
