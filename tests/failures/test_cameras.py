"""What failing cameras show, and how far a calibration is off."""

import copy

import cv2
import numpy as np
import pytest

from cmt_bias.failures.cameras import (
    CalibrationError,
    CameraDrop,
    CameraForeignScene,
    CameraFrozen,
    CameraMirror,
    CameraOcclusion,
    CameraShift,
)

from .samples import CHANNELS


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


@pytest.mark.parametrize('failure', [CameraOcclusion(0.5), CameraDrop(), CameraMirror()])
def test_a_sample_without_cameras_stays_as_it_is(failure, sample):
    assert failure({**sample, 'img': []})['img'] == []


def test_dirt_covers_the_share_and_leaves_the_other_pixels(sample):
    after = CameraOcclusion(share=0.4)(copy.deepcopy(sample))['img']
    masks = []
    for old, new in zip(sample['img'], after, strict=True):
        mask = (new == 0).all(axis=-1)
        assert mask.mean() == pytest.approx(0.4, abs=1e-4)
        np.testing.assert_array_equal(new[~mask], old[~mask])
        masks.append(mask)
    assert not np.array_equal(masks[0], masks[1])


def test_frozen_cameras_show_the_file_of_then_and_the_others_their_own(sample, recordings):
    after = CameraFrozen(seconds=2.0, num_views=2)(copy.deepcopy(sample))
    assert after['spoiled_views'].sum() == 2
    for view, hit in enumerate(after['spoiled_views']):
        then = f'log-a__{CHANNELS[view]}__98000000.png' if hit else None
        expected = (
            cv2.imread(str(recordings / CHANNELS[view] / then)) if hit else sample['img'][view]
        )
        np.testing.assert_array_equal(after['img'][view], expected)


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
