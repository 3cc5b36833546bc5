"""Every failure does what it says, to the inputs it names, and the same each time."""

import copy
import multiprocessing

import numpy as np
import pytest
import torch
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import LiDARPoints

from cmt_bias.failures import all_failures
from cmt_bias.failures.cameras import (
    CameraDrop,
    CameraFrozen,
    CameraMirror,
    CameraOcclusion,
    CameraShift,
)
from cmt_bias.failures.lidar import (
    LiDARBeamReduction,
    LiDARDrop,
    LiDARFieldOfView,
    LiDARGhosts,
    LiDARObjectFailure,
)
from cmt_bias.failures.weather import CameraNight, LiDARFog, Rain

from .samples import beams, cloud, same

RANDOM = [
    failure
    for failure in all_failures(severities=(3,))
    if failure.transforms and failure.name not in ('lidar_beams_4', 'lidar_fov_60')
]


FIXED = {  # by sensor and time alone
    *('lidar_drop', 'camera_drop_all', 'time_offset_3'),
    *('camera_frozen', 'lidar_frozen', 'camera_mirror'),
}


SPOILED = {
    'L': {'points'},
    'C': {'img'},
    'LC': {'points', 'img'},
}


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


def test_a_missing_lidar_and_missing_cameras_are_those_of_the_modal_mask(sample):
    lidar = LiDARDrop()(copy.deepcopy(sample))
    assert not lidar['points'].tensor.any()
    assert lidar['points'].shape == sample['points'].shape
    cameras = CameraDrop()(copy.deepcopy(sample))
    assert not any(image.any() for image in cameras['img'])


def test_a_failure_that_changes_nothing_says_so():
    transform = LiDARBeamReduction(1)
    kept = beams()[0][transform.kept_rings[0] * 90 :][:90]
    for positions in (kept, np.zeros((0, 3))):
        after = transform(dict(points=cloud(positions), token='t'))
        assert not after['changed_by_failure'] and 'spoiled_sensors' not in after


@pytest.mark.parametrize(
    'failure',
    [failure for failure in all_failures() if 'L' in failure.spoils],
    ids=lambda failure: failure.name,
)
def test_no_failure_takes_the_time_of_points_for_their_intensity(failure, sample):
    """``use_dim=[0, 1, 2, 4]``, the default of the loaders of sweeps."""
    columns = sample['points'].tensor[:, [0, 1, 2, 4]]
    sample['points'] = LiDARPoints(columns, points_dim=4)
    if failure.name in ('lidar_drop', 'lidar_fov_60'):  # which look at places alone
        left = spoil(failure, sample)['points'].tensor
        assert set(left[:, 3].tolist()) <= {0.0, *columns[:, 3].tolist()}
    else:
        with pytest.raises(ValueError, match=r'use_dim=\[0, 1, 2, 3, 4\]'):
            spoil(failure, sample)


def test_a_failure_before_the_loading_says_so():
    with pytest.raises(KeyError, match='loading'):
        LiDARDrop()(dict(token='t'))


@pytest.mark.parametrize(
    'build',
    [
        lambda: LiDARBeamReduction(0),
        lambda: LiDARFieldOfView(190),
        lambda: LiDARObjectFailure(0),
        lambda: CameraDrop(num_views=0),
        lambda: CameraOcclusion(1.5),
        lambda: CameraNight(4),
        lambda: Rain(0),
        lambda: CameraFrozen(0),
        lambda: CameraMirror(num_views=0),
        lambda: CameraShift(1.5),
        lambda: LiDARGhosts(2),
    ],
)
def test_settings_without_meaning_are_refused(build):
    with pytest.raises(ValueError, match='must'):
        build()
