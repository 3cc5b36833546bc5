"""A turn at a crossing, and sweeps recorded along it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuscenes_synth import DatasetSettings
from nuscenes_synth.lidar import LidarSimulator
from nuscenes_synth.raycasting import RayCaster
from nuscenes_synth.rig import LIDAR
from nuscenes_synth.road import Road
from nuscenes_synth.scene_writer import plan_drive
from nuscenes_synth.tracks import Track, Turn, poses_at
from nuscenes_synth.weather import WEATHERS

ROAD = Road((5.0, -3.0), 0.7, 0.0, (2.4, 5.4), 10.0)


@given(
    side=st.sampled_from([-1, 1]),
    radius=st.floats(7, 12),
    speed=st.floats(2, 8),
    start=st.floats(-5, 12),
)
def test_a_turn_is_smooth_ends_across_the_road_and_keeps_its_speed(side, radius, speed, start):
    turn = Turn(side, radius, speed, start)
    times = np.linspace(0.0, 40.0 / speed, 4001)
    poses = turn.poses(ROAD, times)
    steps = np.diff(poses[:, :2], axis=0) / np.diff(times)[:, None]
    np.testing.assert_allclose(np.hypot(*steps.T), speed, rtol=1e-3)
    middle_yaw = (poses[1:, 2] + poses[:-1, 2]) / 2
    heading = np.stack([np.cos(middle_yaw), np.sin(middle_yaw)], axis=-1)
    np.testing.assert_allclose((heading * steps).sum(axis=1), speed, rtol=1e-3)
    assert poses[-1, 2] - ROAD.heading == pytest.approx(side * np.pi / 2)
    s, _ = ROAD.from_world(poses[-1:, 0], poses[-1:, 1])
    assert s[0] == pytest.approx(ROAD.crossing_s + side * 1.75), 'in the right-hand lane'


def test_a_turn_needs_a_crossing():
    with pytest.raises(ValueError, match='no crossing'):
        Turn(1, 9.0, 5.0, 0.0).poses(Road((0, 0), 0.0, 0.0, (2.4, 2.4), None), np.zeros(1))


def test_many_tracks_at_once_are_where_each_is_alone():
    tracks = [Track(3.0, -5.0, 0.1, speed_s=4.0), Track(-8.0, 2.0, -2.0, speed_d=1.5)]
    together = poses_at(1.3, tracks, ROAD)
    alone = [track.poses(ROAD, np.array([1.3]))[0] for track in tracks]
    np.testing.assert_allclose(together, alone)


def test_some_scenes_turn_hard_some_bend_and_most_go_straight():
    settings = DatasetSettings(train_scenes=40, val_scenes=1)
    rates = []
    for plan in settings.scene_plans():
        road, ego = plan_drive(settings, plan)
        before, after = ego.poses(road, np.array([1.0, 1.25]))[:, 2]
        rates.append(abs(np.degrees(after - before)) / 0.25)
    rates = np.array(rates)
    assert 4 <= (rates > 15).sum() <= 20
    assert ((rates > 0.5) & (rates < 10)).sum() >= 2
    assert (rates < 0.1).sum() >= 10


def test_a_post_stays_in_place_across_sweeps_of_a_turn_only_with_each_sweeps_own_pose(boxes):
    turn = Turn(-1, 8.0, 5.0, -1.0)
    simulator = LidarSimulator(LIDAR, 560)
    ends = turn.poses(ROAD, np.array([0.0, 0.5]))
    post = ends[0, :2] + 12.0 * np.array([np.cos(ends[0, 2] - 0.5), np.sin(ends[0, 2] - 0.5)])
    seen = []
    for pose in ends:
        cos, sin = np.cos(pose[2]), np.sin(pose[2])
        to_ego = np.array([[cos, sin], [-sin, cos]])
        x, y = to_ego @ (post - pose[:2])
        solids = boxes(((x, y, 1.5), (0.3, 0.3, 3.0)))
        points = simulator.scan(RayCaster(solids), WEATHERS['day'], np.random.default_rng(0))
        in_ego = points[:, :3] @ LIDAR.ego_from_sensor()[:3, :3].T + LIDAR.translation
        on_post = in_ego[in_ego[:, 2] > 0.3, :2].mean(axis=0)
        seen.append((on_post, pose[:2] + to_ego.T @ on_post))
    (ego_first, world_first), (ego_second, world_second) = seen
    assert np.linalg.norm(world_first - world_second) < 0.3
    assert np.linalg.norm(ego_first - ego_second) > 2.0
