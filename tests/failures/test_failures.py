"""Every failure does what it says, to the inputs it names, and the same each time."""

import copy
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints

from cmt_bias.failures import (
    CalibrationError,
    CameraDrop,
    CameraForeignScene,
    CameraFrozen,
    CameraMirror,
    CameraNight,
    CameraOcclusion,
    CameraShift,
    LiDARBeamReduction,
    LiDARDrop,
    LiDARFieldOfView,
    LiDARFog,
    LiDARFrozen,
    LiDARGhosts,
    LiDARObjectFailure,
    LiDARTimeOffset,
    Rain,
    all_failures,
)
from cmt_bias.failures.point_columns import ELEVATION_STEP, LOWEST_ELEVATION, into_sweep_frame

RANDOM = [
    failure
    for failure in all_failures(severities=(3,))
    if failure.transforms and failure.name not in ('lidar_beams_4', 'lidar_fov_60')
]
FIXED = {  # by sensor and time alone
    *('lidar_drop', 'camera_drop_all', 'time_offset_3'),
    *('camera_frozen', 'lidar_frozen', 'camera_mirror'),
}
CHANNELS = [f'CAM_{view}' for view in 'ABCDEF']
SPOILED = {
    'L': {'points'},
    'C': {'img'},
    'LC': {'points', 'img'},
}


def rotation(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    matrix = np.eye(3)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def sweep(age: float, degrees: float, shift: tuple[float, float, float]) -> dict:
    """A sweep whose frame lies turned and shifted in that of the keyframe, which is at 100 s."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees)
    matrix[:3, 3] = shift
    return dict(timestamp=100.0 - age, lidar_points=dict(lidar2sensor=matrix.tolist()))


def as_loaded(points: np.ndarray, matrix: list) -> np.ndarray:
    """Points (N, 3) of a sweep in the frame of the keyframe, as the loader gives them."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    return (homogeneous @ np.linalg.inv(matrix).T)[:, :3]


def beams(num_azimuths: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) of all beams of an HDL-32E at various distances, and their rings (N,)."""
    rings = np.repeat(np.arange(32), num_azimuths)
    elevation = np.deg2rad(LOWEST_ELEVATION + ELEVATION_STEP * rings)
    azimuth = np.tile(np.linspace(0, 2 * np.pi, num_azimuths, endpoint=False), 32)
    distance = np.random.default_rng(0).uniform(3, 50, len(rings))
    directions = [
        np.cos(elevation) * np.cos(azimuth),
        np.cos(elevation) * np.sin(azimuth),
        np.sin(elevation),
    ]
    return distance[:, None] * np.stack(directions, axis=1), rings


def cloud(positions: np.ndarray, fifth: np.ndarray | float = 0.0) -> LiDARPoints:
    """A cloud of (N, 3) whose fourth column numbers the points."""
    columns = np.zeros((len(positions), 5), dtype=np.float32)
    columns[:, :3] = positions
    columns[:, 3] = np.arange(len(positions)) % 256
    columns[:, 4] = fifth
    return LiDARPoints(torch.from_numpy(columns), points_dim=5)


@pytest.fixture(scope='module')
def recordings(tmp_path_factory) -> Path:
    """Files of two recordings of 3 s with two keyframes a second, named as nuScenes does."""
    root = tmp_path_factory.mktemp('samples')
    rng = np.random.default_rng(5)
    for channel in ('LIDAR_TOP', *CHANNELS):
        (root / channel).mkdir()
        for log, start in (('log-a', 97), ('log-b', 5000)):
            for step in range(7):
                name = f'{log}__{channel}__{int((start + step / 2) * 1e6)}'
                if channel == 'LIDAR_TOP':
                    points = rng.uniform(-20, 20, (50 + step, 5)).astype(np.float32)
                    points.tofile(root / channel / f'{name}.pcd.bin')
                else:
                    image = rng.integers(1, 255, (90, 160, 3), dtype=np.uint8)
                    cv2.imwrite(str(root / channel / f'{name}.png'), image)
    return root


@pytest.fixture
def sample(make_sample, recordings) -> dict:
    """A sample as it is after the loading in a test, with a sweep and annotations."""
    made = make_sample(num_points=4000, num_views=6)
    now = 'log-a__{}__100000000'
    made['filename'] = [str(recordings / name / f'{now.format(name)}.png') for name in CHANNELS]
    cloud_name = f'{now.format("LIDAR_TOP")}.pcd.bin'
    made['lidar_points'] = dict(lidar_path=str(recordings / 'LIDAR_TOP' / cloud_name))
    made['token'] = 'a_token'
    made['timestamp'] = 100.0
    made['lidar_sweeps'] = [sweep(0.2, 3.0, (0.1, 1.5, 0.0)), sweep(0.4, 5.0, (0.3, 3.0, 0.0))]
    made['points'].tensor[:, 4] = torch.tensor([0.0, 0.2]).repeat(2000)
    made['eval_ann_info'] = dict(gt_bboxes_3d=made['gt_bboxes_3d'])
    return made


def same(old: object, new: object) -> bool:
    if isinstance(old, LiDARPoints):
        return torch.equal(old.tensor, new.tensor)
    if isinstance(old, list) and len(old) and isinstance(old[0], np.ndarray):
        return all(map(np.array_equal, old, new))
    if isinstance(old, LiDARInstance3DBoxes):
        return torch.equal(old.tensor, new.tensor)
    if isinstance(old, np.ndarray):
        return np.array_equal(old, new)
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(same(old[key], new[key]) for key in old)
    return old == new


def spoil(failure, sample: dict, seed: int = 0) -> dict:
    results = copy.deepcopy(sample)
    for transform in failure.seeded(seed):
        results = TRANSFORMS.build(transform)(results)
    return results


@pytest.mark.parametrize('failure', all_failures()[1:], ids=lambda failure: failure.name)
def test_a_failure_changes_its_inputs_and_nothing_else(failure, sample):
    before = copy.deepcopy(sample)
    after = spoil(failure, sample)
    expected = SPOILED[failure.spoils]
    if failure.name.startswith('calibration'):
        expected = {'lidar2img', 'lidar2cam'}
    assert after['changed_by_failure']
    assert after['spoiled_sensors'] == failure.spoils
    added = {'changed_by_failure', 'spoiled_sensors'}
    added |= {'spoiled_views'} if 'C' in failure.spoils else set()
    added |= {'spoiled_regions'} if 'L' in failure.spoils else set()
    assert {key for key in before if not same(before[key], after[key])} == expected
    assert after.keys() - before.keys() <= added
    for image, old in zip(after['img'], before['img'], strict=True):
        assert (image.shape, image.dtype) == (old.shape, old.dtype)
    assert torch.isfinite(after['points'].tensor).all()
    assert after['points'].tensor.dtype == torch.float32


@pytest.mark.parametrize('failure', all_failures()[1:], ids=lambda failure: failure.name)
def test_a_failure_never_writes_into_the_arrays_that_it_was_given(failure, sample):
    before = copy.deepcopy(sample)
    results = dict(sample)
    for transform in failure.seeded(0):
        results = TRANSFORMS.build(transform)(results)
    assert all(same(before[key], sample[key]) for key in before)


@pytest.mark.parametrize('failure', RANDOM, ids=lambda failure: failure.name)
def test_a_failure_depends_on_the_seed_and_the_sample_alone(failure, sample):
    first = spoil(failure, sample)
    np.random.seed(12)
    state = np.random.get_state()[1].copy()
    again = spoil(failure, sample)
    assert np.array_equal(np.random.get_state()[1], state)
    assert all(same(first[key], again[key]) for key in first)

    if failure.name in FIXED:
        return
    differing = 0
    for seed in range(1, 4):
        other = spoil(failure, sample, seed)
        other_sample = spoil(failure, {**sample, 'token': f'token_{seed}'})
        differing += any(not same(first[key], other[key]) for key in first)
        differing += any(not same(first[key], other_sample[key]) for key in first)
    assert differing >= 3


def _spoiled_points(sample: dict) -> np.ndarray:
    return LiDARFog(severity=3)(copy.deepcopy(sample))['points'].tensor.numpy()


def test_a_failure_is_the_same_in_another_process(sample):
    with multiprocessing.get_context('fork').Pool(2) as pool:
        elsewhere = pool.map(_spoiled_points, [sample] * 3)
    for points in elsewhere:
        np.testing.assert_array_equal(points, _spoiled_points(sample))


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


def two_objects() -> dict:
    """Two boxes, the first moving at 10 m/s, with points now and 0.4 s ago, and one elsewhere."""
    boxes = [[10, 0, -1, 4, 2, 2, 0.0, 10, 0], [0, 10, -1, 2, 2, 2, 0.5, 0, 0]]
    positions = np.array([[10, 0, 0], [6, 0, 0], [0, 10, 0], [0, 10, 0], [-20, 0, 0], [6, 0, 0]])
    lags = np.array([0, 0.4, 0, 0.4, 0.4, 0])
    return dict(
        points=cloud(positions, lags),
        eval_ann_info=dict(gt_bboxes_3d=LiDARInstance3DBoxes(torch.tensor(boxes), box_dim=9)),
        token='t',
        timestamp=100.0,
        lidar_sweeps=[sweep(0.4, 0.0, (0.0, 4.0, 0.0))],
    )


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


def test_object_failure_without_annotations_says_what_to_set():
    results = two_objects()
    del results['eval_ann_info']
    with pytest.raises(KeyError, match='load_eval_anns'):
        LiDARObjectFailure()(results)


def test_a_missing_lidar_and_missing_cameras_are_those_of_the_modal_mask(sample):
    lidar = LiDARDrop()(copy.deepcopy(sample))
    assert not lidar['points'].tensor.any()
    assert lidar['points'].shape == sample['points'].shape
    cameras = CameraDrop()(copy.deepcopy(sample))
    assert not any(image.any() for image in cameras['img'])


@pytest.mark.parametrize('number', range(1, 7))
def test_so_many_views_are_black(number, sample):
    seen = set()
    for token in range(12):
        after = CameraDrop(num_views=number)({**sample, 'token': token})['img']
        black = tuple(view for view, image in enumerate(after) if not image.any())
        assert len(black) == number
        for view in set(range(6)) - set(black):
            np.testing.assert_array_equal(after[view], sample['img'][view])
        seen.add(black)
    assert (len(seen) == 1) == (number == 6)


def test_more_views_than_cameras_are_refused(sample):
    with pytest.raises(ValueError, match='6 cameras'):
        CameraDrop(num_views=7)(sample)


def test_dirt_covers_the_share_and_leaves_the_other_pixels(sample):
    after = CameraOcclusion(share=0.4)(copy.deepcopy(sample))['img']
    masks = []
    for old, new in zip(sample['img'], after, strict=True):
        mask = (new == 0).all(axis=-1)
        assert mask.mean() == pytest.approx(0.4, abs=1e-4)
        np.testing.assert_array_equal(new[~mask], old[~mask])
        masks.append(mask)
    assert not np.array_equal(masks[0], masks[1])


def test_nights_get_darker_and_noisier():
    grey = [np.full((90, 160, 3), 150, dtype=np.uint8)]
    nights = [CameraNight(severity)(dict(img=grey, token='t'))['img'][0] for severity in (1, 2, 3)]
    means = [150.0, *(night.mean() for night in nights)]
    assert all(np.diff(means) < -10)
    assert all(night.std() > 4 for night in nights)


def ground(number: int = 20000) -> LiDARPoints:
    """Points uniform in distance up to 60 m, of intensity 20."""
    rng = np.random.default_rng(3)
    angle, distance = rng.uniform(-np.pi, np.pi, number), rng.uniform(2, 60, number)
    positions = np.stack(
        [distance * np.cos(angle), distance * np.sin(angle), np.zeros(number)], axis=1
    )
    points = cloud(positions)
    points.tensor[:, 3] = 20
    return points


def test_fog_loses_far_points_and_puts_echoes_near_the_sensor():
    far, near = [], []
    for severity in (1, 2, 3):
        points = LiDARFog(severity)(dict(points=ground(), token='t'))['points'].tensor
        distance = points[:, :3].norm(dim=1)
        far.append(int((distance > 40).sum()))
        near.append(int((distance < 10).sum()))
        assert len(points) < 20000
        assert float(points[:, 3].max()) <= 20
    clean = ground().tensor[:, :3].norm(dim=1)
    assert int((clean > 40).sum()) > far[0] > far[1] > far[2]
    assert int((clean < 10).sum()) < near[2]


def test_rain_weakens_both_sensors_and_takes_one_alone():
    grey = [np.full((90, 160, 3), 60, dtype=np.uint8)]
    numbers, spread = [], []
    for severity in (1, 2, 3):
        after = Rain(severity)(dict(points=ground(), img=grey, token='t'))
        numbers.append(len(after['points']))
        spread.append(float(after['points'].tensor[:, :3].norm(dim=1).max()))
        assert after['img'][0].mean() > 60  # grey veil and bright streaks
        assert after['img'][0].max() > 120
    assert 20000 * 0.97 > numbers[0] > numbers[1] > numbers[2]
    assert 'img' not in Rain()(dict(points=ground(), token='t'))
    assert 'points' not in Rain()(dict(img=grey, token='t'))


def test_a_calibration_error_moves_points_on_the_image_as_the_mounting_does(sample):
    after = CalibrationError(severity=2)(copy.deepcopy(sample))
    np.testing.assert_allclose(
        after['cam2img'] @ after['lidar2cam'], after['lidar2img'], rtol=1e-9, atol=1e-9
    )
    motions = after['lidar2cam'] @ np.linalg.inv(sample['lidar2cam'])
    for motion in motions:
        np.testing.assert_allclose(motion[:3, :3] @ motion[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.norm(motion[:3, 3]) < 5 * 0.1
        assert 0 < np.rad2deg(np.arccos((np.trace(motion[:3, :3]) - 1) / 2)) < 5


def test_calibration_errors_have_the_stated_size(sample):
    angles = []
    for token in range(200):
        after = CalibrationError(severity=2)({**sample, 'token': token})
        motions = after['lidar2cam'] @ np.linalg.inv(sample['lidar2cam'])
        traces = np.trace(motions[:, :3, :3], axis1=1, axis2=2)
        angles.extend(np.rad2deg(np.arccos((traces - 1) / 2)))
    assert np.sqrt(np.mean(np.square(angles))) == pytest.approx(1.0, rel=0.1)


def test_an_older_cloud_has_the_world_where_the_lidar_was_and_objects_behind():
    before = two_objects()
    after = LiDARTimeOffset(severity=3)(two_objects())['points'].tensor[:, :3]
    # In 0.4 s the LiDAR came 4 m nearer along y (as_loaded subtracts), the object 4 m along x.
    world = torch.tensor([0.0, 4.0, 0.0])
    moved = torch.tensor([-4.0, 0.0, 0.0])
    expected = before['points'].tensor[:, :3] + world
    expected[:2] += moved
    torch.testing.assert_close(after, expected)


def test_frozen_cameras_show_the_file_of_then_and_the_others_their_own(sample, recordings):
    after = CameraFrozen(seconds=2.0, num_views=2)(copy.deepcopy(sample))
    assert after['spoiled_views'].sum() == 2
    for view, hit in enumerate(after['spoiled_views']):
        then = f'log-a__{CHANNELS[view]}__98000000.png' if hit else None
        expected = (
            cv2.imread(str(recordings / CHANNELS[view] / then)) if hit else sample['img'][view]
        )
        np.testing.assert_array_equal(after['img'][view], expected)


def test_at_the_start_of_a_recording_a_frozen_sensor_is_ahead_of_time(sample, recordings):
    first = recordings / 'LIDAR_TOP' / 'log-a__LIDAR_TOP__97000000.pcd.bin'
    later = recordings / 'LIDAR_TOP' / 'log-a__LIDAR_TOP__98000000.pcd.bin'
    results = {**sample, 'lidar_points': dict(lidar_path=str(first))}
    after = LiDARFrozen(seconds=1.0)(results)['points'].tensor.numpy()
    expected = np.fromfile(later, dtype=np.float32).reshape(-1, 5)
    np.testing.assert_array_equal(after[:, :4], expected[:, :4])
    assert not after[:, 4].any()


def test_a_foreign_picture_is_one_of_another_recording(sample, recordings):
    after = CameraForeignScene()(copy.deepcopy(sample))
    for channel, image in zip(CHANNELS, after['img'], strict=True):
        files = (recordings / channel).glob('log-b*')
        assert any(np.array_equal(image, cv2.imread(str(file))) for file in files)


def test_a_mirrored_picture_is_its_mirror_image_and_a_shifted_one_is_shifted(sample):
    mirrored = CameraMirror()(copy.deepcopy(sample))['img']
    shifted = CameraShift(share=0.1)(copy.deepcopy(sample))['img']
    for image, mirror, shift in zip(sample['img'], mirrored, shifted, strict=True):
        np.testing.assert_array_equal(mirror[:, ::-1], image)
        to_right = np.array_equal(shift[:, 16:], image[:, :-16]) and not shift[:, :16].any()
        to_left = np.array_equal(shift[:, :-16], image[:, 16:]) and not shift[:, -16:].any()
        assert to_right != to_left


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


def test_without_an_older_sweep_the_cloud_stays_and_says_so():
    results = {**two_objects(), 'lidar_sweeps': []}
    after = LiDARTimeOffset(severity=1)(copy.deepcopy(results))
    assert not after['changed_by_failure']
    assert torch.equal(after['points'].tensor, results['points'].tensor)


def test_a_failure_that_changes_nothing_says_so():
    transform = LiDARBeamReduction(1)
    kept = beams()[0][transform.kept_rings[0] * 90 :][:90]
    for positions in (kept, np.zeros((0, 3))):
        after = transform(dict(points=cloud(positions), token='t'))
        assert not after['changed_by_failure'] and 'spoiled_sensors' not in after


def test_a_failure_before_the_loading_says_so():
    with pytest.raises(KeyError, match='loading'):
        LiDARDrop()(dict(token='t'))


@pytest.mark.parametrize(
    'build',
    [
        lambda: LiDARBeamReduction(0),
        lambda: LiDARFieldOfView(190),
        lambda: LiDARObjectFailure(0),
        lambda: CameraDrop(0),
        lambda: CameraOcclusion(1.5),
        lambda: CameraNight(4),
        lambda: Rain(0),
        lambda: CameraFrozen(0),
        lambda: CameraMirror(0),
        lambda: CameraShift(1.5),
        lambda: LiDARGhosts(2),
    ],
)
def test_settings_without_meaning_are_refused(build):
    with pytest.raises(ValueError, match='must'):
        build()
