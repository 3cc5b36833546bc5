"""The augmented image shows at a pixel what the matrices say it does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmt_bias.datasets import ResizeCropFlipImage
from cmt_bias.datasets.augmentation import ImageAugmentation

RELEASED = dict(
    resize_lim=(0.47, 0.625),
    final_dim=(320, 800),
    bot_pct_lim=(0.0, 0.0),
    rot_lim=(0.0, 0.0),
    H=900,
    W=1600,
    rand_flip=True,
)


def coordinate_image(height: int, width: int) -> np.ndarray:
    """Float image whose channels are its own pixel coordinates u and v, and 1."""
    v, u = np.mgrid[:height, :width] + 0.5
    return np.stack([u, v, np.ones_like(u)], axis=-1).astype(np.float32)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    resized=st.tuples(st.integers(40, 200), st.integers(30, 150)),
    place=st.tuples(st.integers(-15, 60), st.integers(-15, 60)),
    size=st.tuples(st.integers(20, 90), st.integers(20, 70)),
    flip=st.booleans(),
    rotation=st.one_of(st.just(0.0), st.floats(-30, 30)),
)
def test_every_pixel_shows_the_source_pixel_that_the_matrix_takes_there(
    resized, place, size, flip, rotation
):
    source = coordinate_image(90, 120)
    augmentation = ImageAugmentation(resized, place, size, flip, rotation)
    image = augmentation.apply(source)
    assert image.shape == (size[1], size[0], 3)

    matrix = augmentation.matrix((120, 90))
    v, u = np.mgrid[: size[1], : size[0]] + 0.5
    wanted = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(matrix).T  # source pixels
    # A margin of two pixels: borders are interpolated with black or repeated.
    margin = 2 * np.maximum(1, [120 / resized[0], 90 / resized[1]])
    inside = (wanted[..., :2] > margin).all(-1) & (wanted[..., :2] < (120, 90) - margin).all(-1)
    # Nor the ones that touch the border of the crop before the turn.
    inside &= image[..., 2] > 0.999
    limit = np.array([120, 90]) + margin
    outside = (wanted[..., :2] < -margin).any(-1) | (wanted[..., :2] > limit).any(-1)
    np.testing.assert_allclose(image[inside], wanted[inside], atol=0.15)
    assert (image[outside] == 0).all()


def test_the_whole_image_shows_when_nothing_is_cut():
    image = ImageAugmentation((60, 45), (0, 0), (60, 45)).apply(coordinate_image(90, 120))
    expected = coordinate_image(45, 60) * (2, 2, 1)
    np.testing.assert_allclose(image, expected, atol=1e-3)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31 - 1), per_view=st.booleans())
def test_projected_points_move_as_the_pixels_do(make_sample, seed, per_view):
    sample = make_sample(seed=seed % 100)
    points = sample['gt_bboxes_3d'].corners.numpy().reshape(-1, 3)
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    before = sample['lidar2img'].copy()
    conf = dict(
        resize_lim=(0.4, 1.3),
        final_dim=(40, 100),
        rot_lim=(-10.0, 10.0),
        bot_pct_lim=(0.0, 0.2),
        rand_flip=True,
    )
    np.random.seed(seed)
    sample = ResizeCropFlipImage(conf, pic_wise=per_view)(sample)

    for view in range(len(before)):
        old = homogeneous @ before[view].T
        new = homogeneous @ sample['lidar2img'][view].T
        np.testing.assert_allclose(new[:, 2], old[:, 2], rtol=1e-9)  # the depth stays
        motion = sample['img_aug_matrix'][view, :3, :3]
        pixel = np.concatenate([old[:, :2] / old[:, 2:3], np.ones((len(old), 1))], axis=1)
        np.testing.assert_allclose(
            new[:, :2] / new[:, 2:3], (pixel @ motion.T)[:, :2], rtol=1e-6, atol=1e-6
        )
    np.testing.assert_allclose(sample['lidar2img'], sample['cam2img'] @ sample['lidar2cam'])
    same = [np.allclose(m, sample['img_aug_matrix'][0]) for m in sample['img_aug_matrix']]
    assert all(same) != per_view


def test_testing_does_what_the_released_code_does_with_nuscenes_images(make_sample):
    sample = make_sample(num_views=1, image_size=(900, 1600))
    before = sample['lidar2img'].copy()
    sample = ResizeCropFlipImage(RELEASED, training=False)(sample)
    # max(320 / 900, 800 / 1600) = 0.5; lower 320 of 450 rows; nothing cut at the sides.
    expected = np.array([[0.5, 0, 0, 0], [0, 0.5, -130, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(sample['img_aug_matrix'][0], expected)
    np.testing.assert_allclose(sample['lidar2img'][0], expected @ before[0])
    assert sample['img'][0].shape == (320, 800, 3)
    assert sample['img_shape'] == sample['pad_shape'] == (320, 800)


def test_training_draws_within_the_limits(make_sample):
    transform = ResizeCropFlipImage(RELEASED)
    scales, flips, shifts = [], [], []
    np.random.seed(0)
    for _ in range(300):
        sample = make_sample(num_views=1, num_boxes=0, num_points=1, image_size=(9, 16))
        motion = transform(sample)['img_aug_matrix'][0]
        # A 9 x 16 image stands for a 900 x 1600 one.
        scales.append(abs(motion[0, 0]) / 100)
        flips.append(motion[0, 0] < 0)
        if not flips[-1]:
            shifts.append(-motion[0, 2] / max(1, 1600 * scales[-1] - 800))
    assert 0.469 < min(scales) < 0.48 and 0.615 < max(scales) <= 0.625
    assert abs(np.mean(flips) - 0.5) < 0.1
    assert min(shifts) >= 0 and max(shifts) <= 1 and max(shifts) > 0.9


def test_a_smaller_source_image_shows_the_same_field_of_view(make_sample):
    large, small = make_sample(image_size=(900, 1600)), make_sample(image_size=(225, 400))
    np.random.seed(4)
    large = ResizeCropFlipImage(RELEASED)(large)
    np.random.seed(4)
    small = ResizeCropFlipImage(RELEASED)(small)
    assert small['img'][0].shape == large['img'][0].shape
    # The cameras of the two samples differ in nothing but the number of pixels.
    np.testing.assert_allclose(small['lidar2img'], large['lidar2img'], rtol=1e-9)


def test_without_h_and_w_the_scale_refers_to_the_image_itself(make_sample):
    conf = dict(resize_lim=(0.5, 0.5), final_dim=(20, 60))
    sample = ResizeCropFlipImage(conf)(make_sample(image_size=(60, 120)))
    np.testing.assert_allclose(sample['img_aug_matrix'][:, 0, 0], 0.5)
    np.testing.assert_allclose(sample['img_aug_matrix'][:, 1, 2], -10)  # the lower 20 of 30 rows


def test_images_keep_their_type_and_stay_as_they_were(make_sample):
    sample = make_sample()
    source = sample['img']
    copies = [image.copy() for image in source]
    sample = ResizeCropFlipImage(dict(resize_lim=(0.5, 0.9), final_dim=(30, 70)))(sample)
    assert all(image.dtype == np.uint8 for image in sample['img'])
    for image, copy in zip(source, copies, strict=True):
        np.testing.assert_array_equal(image, copy)


def test_images_of_other_proportions_are_refused(make_sample):
    with pytest.raises(ValueError, match=r'160 x 100.*W=1600, H=900'):
        ResizeCropFlipImage(RELEASED)(make_sample(image_size=(100, 160)))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'resise_lim': (1, 1)}, 'resise_lim'),
        ({'final_dim': None}, 'final_dim'),
        ({'H': None}, "'H'"),
    ],
)
def test_a_wrong_key_in_the_config_is_named(change, message):
    conf = {k: v for k, v in {**RELEASED, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        ResizeCropFlipImage(conf)
