"""Rotation, scale, translation and flips: the scene moves, its picture does not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.structures import LiDARInstance3DBoxes

from cmt_bias.datasets import CustomRandomFlip3D, GlobalRotScaleTransAll, GlobalRotScaleTransImage

SEEDS = st.integers(0, 2**31 - 1)
ALL = GlobalRotScaleTransAll(
    rot_range=[-3.0, 3.0], scale_ratio_range=[0.7, 1.4], translation_std=[2.0, 2.0, 0.5]
)
IMAGE = GlobalRotScaleTransImage(
    rot_range=[-3.0, 3.0], scale_ratio_range=[0.7, 1.4], flip_dx_ratio=0.5, flip_dy_ratio=0.5
)
FLIP = CustomRandomFlip3D(flip_ratio_bev_horizontal=0.5, flip_ratio_bev_vertical=0.5)
TRANSFORMS = pytest.mark.parametrize(
    'transform', [ALL, IMAGE, FLIP], ids=['rot_scale_trans', 'camera_only', 'flip']
)


def corners_by_hand(box: np.ndarray) -> np.ndarray:
    """Corners (8, 3) of one box, written out from the definition of the box format."""
    x, y, z, length, width, height, yaw = box[:7].astype(np.float64)
    return np.array(
        [
            [
                x + np.cos(yaw) * a * length - np.sin(yaw) * b * width,
                y + np.sin(yaw) * a * length + np.cos(yaw) * b * width,
                z + c * height,
            ]
            for a in (-0.5, 0.5)
            for b in (-0.5, 0.5)
            for c in (0.0, 1.0)
        ]
    )


def pixels(lidar2img: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Project (N, 3) with (4, 4): (N, 3) of u, v, depth."""
    projected = np.concatenate([points, np.ones((len(points), 1))], 1) @ lidar2img.T
    return np.concatenate([projected[:, :2] / projected[:, 2:3], projected[:, 2:3]], axis=1)


def assert_same_set(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    distances = np.linalg.norm(found[:, None] - expected[None], axis=-1)
    assert distances.min(axis=1).max() < tolerance
    assert distances.min(axis=0).max() < tolerance


@TRANSFORMS
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_corners_of_boxes_and_points_keep_their_pixels_in_every_camera(
    make_sample, transform, seed
):
    sample = make_sample(seed=seed % 1000)
    boxes = sample['gt_bboxes_3d'].tensor.numpy().copy()
    points = sample['points'].tensor.numpy().copy()
    lidar2img, cam2img = sample['lidar2img'].copy(), sample['cam2img'].copy()
    np.random.seed(seed)
    sample = transform(sample)

    scale = np.linalg.det(sample['lidar_aug_matrix'][:3, :3])
    scale = np.sign(scale) * np.abs(scale) ** (1 / 3)
    for view in range(len(lidar2img)):
        before = pixels(lidar2img[view], points[:, :3])
        after = pixels(sample['lidar2img'][view], sample['points'].tensor.numpy()[:, :3])
        far = before[:, 2] > 1.0  # pixels of points near the camera plane are ill-conditioned
        np.testing.assert_allclose(after[far, :2], before[far, :2], rtol=2e-4, atol=0.02)
        np.testing.assert_allclose(after[:, 2], before[:, 2], atol=1e-4)
        for old, new in zip(boxes, sample['gt_bboxes_3d'].tensor.numpy(), strict=True):
            before = pixels(lidar2img[view], corners_by_hand(old))
            if before[:, 2].min() > 1.0:
                after = pixels(sample['lidar2img'][view], corners_by_hand(new))
                assert_same_set(after, before, 0.02 + 2e-4 * np.abs(before).max())
    np.testing.assert_array_equal(sample['cam2img'], cam2img)
    np.testing.assert_allclose(
        sample['lidar2img'], sample['cam2img'] @ sample['lidar2cam'], rtol=1e-9, atol=1e-6
    )


@TRANSFORMS
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_heading_size_and_velocity_follow_the_motion(make_sample, transform, seed):
    sample = make_sample(seed=seed % 1000)
    old = sample['gt_bboxes_3d'].tensor.numpy().copy().astype(np.float64)
    np.random.seed(seed)
    sample = transform(sample)
    new = sample['gt_bboxes_3d'].tensor.numpy().astype(np.float64)

    linear, offset = sample['lidar_aug_matrix'][:3, :3], sample['lidar_aug_matrix'][:3, 3]
    scale = np.abs(np.linalg.det(linear)) ** (1 / 3)
    np.testing.assert_allclose(new[:, :3], old[:, :3] @ linear.T + offset, atol=1e-4)
    np.testing.assert_allclose(new[:, 3:6], old[:, 3:6] * scale, rtol=1e-5)
    heading = np.stack([np.cos(old[:, 6]), np.sin(old[:, 6])], -1) @ linear[:2, :2].T / scale
    np.testing.assert_allclose(
        np.stack([np.cos(new[:, 6]), np.sin(new[:, 6])], -1), heading, atol=1e-5
    )
    np.testing.assert_allclose(new[:, 7:9], old[:, 7:9] @ linear[:2, :2].T, atol=1e-4)


def test_a_turn_by_a_quarter_to_the_left_moves_ahead_to_the_left(make_sample):
    sample = make_sample()
    sample['gt_bboxes_3d'] = LiDARInstance3DBoxes(
        torch.tensor([[10.0, 0, 0, 4, 2, 1.5, 0, 3, 0]]), box_dim=9
    )
    quarter = np.pi / 2
    GlobalRotScaleTransAll([quarter, quarter], [2.0, 2.0], [0, 0, 0])(sample)
    np.testing.assert_allclose(
        sample['gt_bboxes_3d'].tensor.numpy(),
        [[0, 20, 0, 8, 4, 3, quarter, 0, 6]],
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ('horizontal', 'vertical', 'expected'),
    [
        (1.0, 0.0, [10, -2, 0, 4, 2, 1.5, -0.5, 3, -1]),
        (0.0, 1.0, [-10, 2, 0, 4, 2, 1.5, np.pi - 0.5, -3, 1]),
        (0.0, 0.0, [10, 2, 0, 4, 2, 1.5, 0.5, 3, 1]),
    ],
)
def test_flips_mirror_place_heading_and_velocity(make_sample, horizontal, vertical, expected):
    sample = make_sample()
    images = [image.copy() for image in sample['img']]
    sample['gt_bboxes_3d'] = LiDARInstance3DBoxes(
        torch.tensor([[10.0, 2, 0, 4, 2, 1.5, 0.5, 3, 1]]), box_dim=9
    )
    CustomRandomFlip3D(horizontal, vertical)(sample)
    np.testing.assert_allclose(sample['gt_bboxes_3d'].tensor[0].numpy(), expected, atol=1e-6)
    assert sample['pcd_horizontal_flip'] is (horizontal == 1.0)
    assert sample['pcd_vertical_flip'] is (vertical == 1.0)
    for before, after in zip(images, sample['img'], strict=True):
        np.testing.assert_array_equal(before, after)


def test_flips_happen_as_often_as_their_probabilities_say(make_sample):
    transform = CustomRandomFlip3D(0.8, 0.3)
    np.random.seed(0)
    flips = []
    for _ in range(600):
        sample = transform(make_sample(num_boxes=1, num_points=1, num_views=1, image_size=(2, 2)))
        flips.append((sample['pcd_horizontal_flip'], sample['pcd_vertical_flip']))
    np.testing.assert_allclose(np.mean(flips, axis=0), [0.8, 0.3], atol=0.05)


@TRANSFORMS
@pytest.mark.parametrize('absent', ['points', 'img', 'gt_bboxes_3d'])
def test_works_without_points_or_images_or_boxes(make_sample, transform, absent):
    np.random.seed(3)
    whole = transform(make_sample(seed=1))
    partial = make_sample(seed=1)
    del partial[absent]
    if absent == 'img':
        for key in ('lidar2img', 'lidar2cam', 'cam2img'):
            del partial[key]
    np.random.seed(3)
    partial = transform(partial)

    assert absent not in partial
    np.testing.assert_allclose(partial['lidar_aug_matrix'], whole['lidar_aug_matrix'])
    if absent != 'img':
        np.testing.assert_allclose(partial['lidar2img'], whole['lidar2img'])
    if absent != 'points':
        torch.testing.assert_close(partial['points'].tensor, whole['points'].tensor)
    if absent != 'gt_bboxes_3d':
        torch.testing.assert_close(partial['gt_bboxes_3d'].tensor, whole['gt_bboxes_3d'].tensor)


@pytest.mark.parametrize(
    'transform',
    [CustomRandomFlip3D(1.0, 1.0), GlobalRotScaleTransImage(flip_dx_ratio=1.0, flip_dy_ratio=1.0)],
    ids=['flip', 'camera_only'],
)
def test_images_alone_are_flipped_by_their_matrices(make_sample, transform):
    np.random.seed(3)
    whole = transform(make_sample(seed=1))
    images = make_sample(seed=1)
    del images['points'], images['gt_bboxes_3d']
    np.random.seed(3)
    images = transform(images)
    assert images['pcd_horizontal_flip'] and images['pcd_vertical_flip']
    assert 'points' not in images and 'gt_bboxes_3d' not in images
    np.testing.assert_allclose(images['lidar2img'], whole['lidar2img'])


def test_centres_in_the_images_stay_where_they_are_in_a_flip(make_sample):
    sample = make_sample(seed=1)
    sample['centers_2d'] = np.array([[3.0, 4.0]])
    boxes, intrinsics = sample['gt_bboxes_3d'].tensor.clone(), sample['cam2img'].copy()
    sample = CustomRandomFlip3D(1.0, 1.0)(sample)
    torch.testing.assert_close(sample['gt_bboxes_3d'].tensor[:, :2], -boxes[:, :2])
    np.testing.assert_array_equal(sample['centers_2d'], [[3.0, 4.0]])
    np.testing.assert_array_equal(sample['cam2img'], intrinsics)


@TRANSFORMS
def test_works_with_no_box_and_no_point_at_all(make_sample, transform):
    np.random.seed(3)
    whole = transform(make_sample(seed=1))
    np.random.seed(3)
    empty = transform(make_sample(seed=1, num_boxes=0, num_points=0))
    assert empty['gt_bboxes_3d'].tensor.shape == (0, 9)
    assert empty['points'].tensor.shape == (0, 5)
    np.testing.assert_allclose(empty['lidar2img'], whole['lidar2img'])


def test_motions_add_up_in_the_order_they_happen(make_sample):
    sample = make_sample(seed=2)
    before = sample['points'].tensor.numpy()[:, :3].astype(np.float64)
    np.random.seed(5)
    sample = FLIP(ALL(sample))
    matrix = sample['lidar_aug_matrix']
    np.testing.assert_allclose(
        sample['points'].tensor.numpy()[:, :3],
        before @ matrix[:3, :3].T + matrix[:3, 3],
        atol=1e-4,
    )


def test_images_without_lidar2img_are_refused_with_the_loader_to_use(make_sample):
    sample = make_sample()
    del sample['lidar2img']
    with pytest.raises(KeyError, match='LoadCalibratedMultiViewImages'):
        ALL(sample)


def test_flipping_images_with_the_scene_is_refused():
    with pytest.raises(ValueError, match='ResizeCropFlipImage'):
        CustomRandomFlip3D(sync_2d=True)
