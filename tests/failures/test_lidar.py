"""What a failing LiDAR loses, repeats or makes up."""

import copy

import numpy as np
import pytest
import torch

from cmt_bias.failures.lidar import (
    LiDARBeamReduction,
    LiDARFieldOfView,
    LiDARFrozen,
    LiDARGhosts,
    LiDARObjectFailure,
    LiDARTimeOffset,
    into_sweep_frame,
)

from .samples import as_loaded, beams, cloud, rotation, sweep, two_objects


@pytest.mark.parametrize('number', [1, 4, 16])
def test_beams_are_uniformly_spaced_by_ring_index_and_by_elevation(number):
    positions, rings = beams()
    transform = LiDARBeamReduction(number)
    by_index = transform(dict(points=cloud(positions, rings), token='t'))['points']
    by_elevation = transform(dict(points=cloud(positions), token='t'))['points']
    kept = np.unique(by_index.tensor[:, 4])
    assert len(kept) == number
    assert len(set(np.diff(kept))) <= 1
    assert kept.tolist() == transform.kept_rings.tolist()
    assert torch.equal(by_index.tensor[:, :4], by_elevation.tensor[:, :4])
    assert len(by_elevation) == number * 90


def test_four_beams_are_those_in_the_middle_of_four_equal_parts():
    assert LiDARBeamReduction(4).kept_rings.tolist() == [4, 12, 20, 28]


def test_beams_of_a_sweep_are_counted_in_the_frame_of_the_sweep():
    positions, rings = beams()
    sweeps = [sweep(0.05, 8.0, (0.5, 2.0, 0.3)), sweep(0.10, 15.0, (1.0, 5.0, -0.4))]
    parts, lags = [positions], [np.zeros(len(positions))]
    for entry in sweeps:
        parts.append(as_loaded(positions, entry['lidar_points']['lidar2sensor']))
        lags.append(np.full(len(positions), 100.0 - entry['timestamp']))
    points = cloud(np.concatenate(parts), np.concatenate(lags))
    points.tensor[:, 3] = torch.from_numpy(np.tile(rings, 3))  # to look at, it is no ring column
    results = dict(points=points, token='t', timestamp=100.0, lidar_sweeps=sweeps)
    left = LiDARBeamReduction(4)(results)['points'].tensor
    assert len(left) == 3 * 4 * 90
    assert left[:, 3].unique().tolist() == [4, 12, 20, 28]


def test_the_frame_of_a_sweep_is_the_inverse_of_the_loading():
    positions = np.random.default_rng(1).uniform(-30, 30, (50, 3))
    entry = sweep(0.1, 20.0, (1.0, 3.0, 0.2))
    loaded = as_loaded(positions, entry['lidar_points']['lidar2sensor'])
    back = into_sweep_frame(torch.from_numpy(loaded), entry)
    np.testing.assert_allclose(back, positions, atol=1e-9)


@pytest.mark.parametrize('turned', [False, True])
def test_the_sector_lies_around_the_forward_axis(turned):
    # Without a mounting y is forward and x to the right, as in nuScenes.
    degrees_to_the_right = np.arange(-179.5, 180, 1.0)
    angle = np.deg2rad(degrees_to_the_right)
    positions = np.stack([np.sin(angle), np.cos(angle), np.zeros_like(angle)], axis=1) * 10
    results = dict(points=cloud(positions), token='t')
    if turned:  # a LiDAR whose x axis is forward
        results['points'].tensor[:, :3] = torch.from_numpy(positions @ rotation(-90).T).float()
        results['lidar_points'] = dict(lidar2ego=np.eye(4).tolist())
    else:
        nuscenes = np.eye(4)
        nuscenes[:3, :3] = rotation(-90)  # the LiDAR's y is the vehicle's x
        results['lidar_points'] = dict(lidar2ego=nuscenes.tolist())
    kept = LiDARFieldOfView(60)(results)['points'].tensor[:, 3].long().numpy()
    expected = np.flatnonzero(np.abs(degrees_to_the_right) <= 60) % 256
    np.testing.assert_array_equal(np.sort(kept), np.sort(expected))


def test_the_sector_of_a_sample_without_mounting_is_around_y():
    positions = np.array([[0.0, 5, 0], [0, -5, 0], [5, 0, 0], [-5, 0, 0], [3, 5, 0]])
    kept = LiDARFieldOfView(60)(dict(points=cloud(positions), token='t'))['points'].tensor
    assert kept[:, 3].tolist() == [0, 4]


def test_objects_lose_their_points_where_they_were_when_these_were_taken():
    left = LiDARObjectFailure(probability=1.0)(two_objects())['points'].tensor
    assert left[:, 3].tolist() == [4, 5]


def test_about_half_of_the_objects_lose_all_their_points():
    lost = 0
    for number in range(300):
        results = LiDARObjectFailure(0.5)({**two_objects(), 'token': f't{number}'})
        left = set(results['points'].tensor[:, 3].tolist())
        assert left in ({0, 1, 2, 3, 4, 5}, {2, 3, 4, 5}, {0, 1, 4, 5}, {4, 5})
        assert results['changed_by_failure'] == (len(left) < 6)
        lost += (6 - len(left)) // 2
    assert 240 <= lost <= 360  # five standard deviations


@pytest.mark.parametrize('where', ['ann_info', 'eval_ann_info'])
def test_pasted_objects_fail_move_and_have_ghosts_like_those_of_the_scene(where):
    def training_sample() -> dict:
        """The second object is pasted, so that the annotations of the scene lack it."""
        results = two_objects()
        boxes = results.pop('eval_ann_info')['gt_bboxes_3d']
        boxes.tensor[1, 7] = 5.0  # velocity along x
        return {**results, 'gt_bboxes_3d': boxes, where: dict(gt_bboxes_3d=boxes[:1])}

    pasted = [2]  # a point of it, of now
    assert not set(pasted) & set(
        LiDARObjectFailure(probability=1.0)(training_sample())['points'].tensor[:, 3].tolist()
    )
    ghosts = LiDARGhosts()(training_sample())['points'].tensor[6:, 3].tolist()
    assert set(pasted) <= set(ghosts)
    before, after = training_sample(), LiDARTimeOffset(severity=3)(training_sample())
    moved = (after['points'].tensor - before['points'].tensor)[pasted, :3]
    torch.testing.assert_close(moved, torch.tensor([[-2.0, 4.0, 0.0]]))


def test_object_failure_without_annotations_says_what_to_set():
    results = two_objects()
    del results['eval_ann_info']
    with pytest.raises(KeyError, match='load_eval_anns'):
        LiDARObjectFailure()(results)


def test_an_older_cloud_has_the_world_where_the_lidar_was_and_objects_behind():
    before = two_objects()
    after = LiDARTimeOffset(severity=3)(two_objects())['points'].tensor[:, :3]
    # In 0.4 s the LiDAR came 4 m nearer along y (as_loaded subtracts), the object 4 m along x.
    world = torch.tensor([0.0, 4.0, 0.0])
    moved = torch.tensor([-4.0, 0.0, 0.0])
    expected = before['points'].tensor[:, :3] + world
    expected[:2] += moved
    torch.testing.assert_close(after, expected)


def test_without_an_older_sweep_the_cloud_stays_and_says_so():
    results = {**two_objects(), 'lidar_sweeps': []}
    after = LiDARTimeOffset(severity=1)(copy.deepcopy(results))
    assert not after['changed_by_failure']
    assert torch.equal(after['points'].tensor, results['points'].tensor)


def test_at_the_start_of_a_recording_a_frozen_sensor_is_ahead_of_time(sample, recordings):
    first = recordings / 'LIDAR_TOP' / 'log-a__LIDAR_TOP__97000000.pcd.bin'
    later = recordings / 'LIDAR_TOP' / 'log-a__LIDAR_TOP__98000000.pcd.bin'
    results = {**sample, 'lidar_points': dict(lidar_path=str(first))}
    after = LiDARFrozen(seconds=1.0)(results)['points'].tensor.numpy()
    expected = np.fromfile(later, dtype=np.float32).reshape(-1, 5)
    np.testing.assert_array_equal(after[:, :4], expected[:, :4])
    assert not after[:, 4].any()


def test_every_ghost_is_an_object_turned_about_the_sensor():
    before = two_objects()
    after = LiDARGhosts()(two_objects())
    ghosts = after['points'].tensor[len(before['points']) :]
    assert ghosts[:, 3].tolist() == [0, 1, 2, 3]  # the points of both boxes, then and now
    originals = before['points'].tensor[[0, 1, 2, 3]]
    torch.testing.assert_close(ghosts[:, :2].norm(dim=1), originals[:, :2].norm(dim=1))
    torch.testing.assert_close(ghosts[:, 2:], originals[:, 2:])
    turn = torch.atan2(ghosts[:, 1], ghosts[:, 0]) - torch.atan2(originals[:, 1], originals[:, 0])
    turn = turn.remainder(2 * torch.pi)
    torch.testing.assert_close(turn[0], turn[1])
    torch.testing.assert_close(turn[2], turn[3])
    assert (turn >= torch.pi / 6).all() and (turn <= 11 * torch.pi / 6).all()
    # each ghost stands in the middle of its region
    for region, ghost in zip(after['spoiled_regions'], ghosts[[0, 2], :2], strict=True):
        np.testing.assert_allclose(region.mean(axis=0), ghost, atol=1e-4)
