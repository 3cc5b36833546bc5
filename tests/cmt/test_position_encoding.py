"""Position encodings against loops in plain Python."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmt_bias.cmt.position_encoding import (
    BevEmbedding,
    CameraGeometry,
    RayEmbedding,
    bev_cell_centers,
    camera_cell_pixels,
    camera_geometry,
    common_image_shape,
    denormalize_points,
    normalize_points,
    pos2embed,
    project_to_cameras,
)

PC_RANGE = (-54.0, -50.0, -5.0, 54.0, 52.0, 3.0)
PAD_SHAPE = (96, 256)


def looking_along(yaw: float, focal: float = 200.0) -> np.ndarray:
    """``lidar2img`` of a camera above the origin that looks level along ``yaw``."""
    forward = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    matrix = np.eye(4)
    matrix[:3, :3] = [right, (0, 0, -1), forward]
    matrix[:3, 3] = -matrix[:3, :3] @ [0.3, -0.2, 1.5]
    intrinsics = np.eye(4)
    intrinsics[:2, :3] = [[focal, 0, PAD_SHAPE[1] / 2], [0, focal, PAD_SHAPE[0] / 2]]
    return intrinsics @ matrix


@pytest.fixture
def lidar2img() -> torch.Tensor:
    """``(2, 3, 4, 4)``, other cameras in each sample."""
    yaws = [[0.0, 2.1, -2.1], [0.4, 1.7, -2.8]]
    return torch.tensor(np.array([[looking_along(yaw) for yaw in row] for row in yaws]))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    x=st.floats(-0.2, 1.2),
    y=st.floats(-0.2, 1.2),
    num_pos_feats=st.integers(1, 12).map(lambda half: 2 * half),
)
def test_pos2embed_interleaves_sines_and_cosines_of_y_then_of_x(x, y, num_pos_feats):
    expected = []
    for coordinate in (y, x):
        for channel in range(num_pos_feats):
            angle = 2 * math.pi * coordinate / (2 * (channel // 2) / num_pos_feats + 1)
            expected.append(math.sin(angle) if channel % 2 == 0 else math.cos(angle))
    actual = pos2embed(torch.tensor([[x, y, 0.7]]), num_pos_feats)
    assert actual.shape == (1, 2 * num_pos_feats)
    np.testing.assert_allclose(actual[0].numpy(), expected, atol=2e-6)


def test_bev_cell_centers_are_row_major_with_a_size_for_each_axis():
    height, width = 3, 5
    actual = bev_cell_centers((height, width), 'cpu').numpy()
    expected = [
        ((j + 0.5) / width, (i + 0.5) / height) for i in range(height) for j in range(width)
    ]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_camera_cells_sit_at_their_upper_left_pixels():
    actual = camera_cell_pixels((2, 4), PAD_SHAPE, 'cpu')
    for row in range(2):
        for column in range(4):
            expected = (column * PAD_SHAPE[1] / 4, row * PAD_SHAPE[0] / 2)
            np.testing.assert_allclose(actual[row, column].numpy(), expected, rtol=1e-6)


def test_ray_depths_start_at_one_metre_and_stay_short_of_the_range():
    expected = [1 + k * (54.0 - 1) / 4 for k in range(4)]
    np.testing.assert_allclose(RayEmbedding(2, 4, PC_RANGE).depths.numpy(), expected, rtol=1e-6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.floats(-80, 80), min_size=3, max_size=3))
def test_normalizing_and_denormalizing_are_inverse(point):
    point = torch.tensor(point, dtype=torch.float64)
    normalized = normalize_points(point, PC_RANGE)
    expected = [
        (value - low) / (high - low)
        for value, low, high in zip(point.tolist(), PC_RANGE[:3], PC_RANGE[3:], strict=True)
    ]
    np.testing.assert_allclose(normalized.numpy(), expected, atol=1e-12)
    torch.testing.assert_close(denormalize_points(normalized, PC_RANGE), point)


def test_projection_equals_a_loop_over_points_and_cameras(lidar2img):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 40, 3, generator=generator, dtype=torch.float64) * 60 - 30
    points[..., 2] *= 0.2
    pixels, visible = project_to_cameras(points, lidar2img, PAD_SHAPE)
    assert visible.any() and not visible.all()
    for sample in range(2):
        for view in range(3):
            matrix = lidar2img[sample, view].numpy()
            for index in range(40):
                x, y, depth, _ = matrix @ np.append(points[sample, index].numpy(), 1.0)
                u, v = x / depth, y / depth
                seen = depth > 0 and 0 <= u < PAD_SHAPE[1] and 0 <= v < PAD_SHAPE[0]
                assert bool(visible[sample, view, index]) == seen
                np.testing.assert_allclose(
                    pixels[sample, view, index].numpy(), (u, v, 1.0), rtol=1e-4
                )


@pytest.mark.parametrize(
    ('u', 'v', 'expected'),
    [
        (0.0, 0.0, True),
        (PAD_SHAPE[1] - 0.01, PAD_SHAPE[0] - 0.01, True),
        (PAD_SHAPE[1] + 0.01, 10.0, False),
        (10.0, PAD_SHAPE[0] + 0.01, False),
        (-0.01, 10.0, False),
        (10.0, -0.01, False),
    ],
)
def test_visible_pixels_are_those_of_the_padded_image(u, v, expected):
    # a camera whose pixel is the point itself: depth is z
    points = torch.tensor([[[u, v, 1.0]]], dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)[None, None]
    _, visible = project_to_cameras(points * (1 + 1e-6), matrix, PAD_SHAPE)
    assert bool(visible) is expected
    _, visible = project_to_cameras(-points, matrix, PAD_SHAPE)
    assert not visible.any()


def test_point_in_the_plane_of_a_camera_gives_finite_pixels():
    points = torch.tensor([[[3.0, 2.0, 0.0]]])
    pixels, visible = project_to_cameras(points, torch.eye(4)[None, None], PAD_SHAPE)
    assert torch.isfinite(pixels).all() and not visible.any()


def test_gradient_of_a_projection_leaves_out_its_divisor(lidar2img):
    point = torch.tensor([[[12.0, 3.0, -0.5]]], dtype=torch.float64, requires_grad=True)
    pixels, _ = project_to_cameras(point, lidar2img[:1, :1], PAD_SHAPE)
    pixels[..., 0].sum().backward()
    matrix = lidar2img[0, 0]
    depth = float(matrix[2, :3] @ point[0, 0].detach() + matrix[2, 3])
    torch.testing.assert_close(point.grad[0, 0], matrix[0, :3] / depth, rtol=1e-5, atol=0)


@given(height=st.integers(1, 7), width=st.integers(1, 7))
def test_embedding_of_the_bev_grid_equals_that_of_each_cell(height, width):
    torch.manual_seed(0)
    embedding = BevEmbedding(8)
    expected = embedding(bev_cell_centers((height, width), 'cpu'))
    torch.testing.assert_close(embedding.of_cells((height, width)), expected)


def test_embedding_of_a_place_is_two_layers_on_its_sines_and_cosines():
    embedding, place = BevEmbedding(8), torch.rand(3, 2)
    first, last = embedding.linears
    torch.testing.assert_close(embedding(place), last(first(pos2embed(place, 8)).relu()))


@pytest.mark.parametrize('shape', [(7,), (3, 4)])
def test_embedding_of_rays_equals_that_of_points_that_project_back(lidar2img, shape):
    torch.manual_seed(0)
    embedding = RayEmbedding(5, 6, PC_RANGE).double()
    pixels = torch.rand(2, 3, *shape, 3, dtype=torch.float64) * 100
    pixels[..., 2] = 1
    depths = embedding.depths.double()
    cameras = CameraGeometry(lidar2img, torch.linalg.inv(lidar2img), PAD_SHAPE)
    actual = embedding.of_pixels(pixels, cameras)
    for sample, view, *place in np.ndindex(2, 3, *shape):
        pixel = pixels[sample, view][tuple(place)]
        points = torch.linalg.solve(
            lidar2img[sample, view],
            torch.cat((pixel * depths[:, None], torch.ones(6, 1)), dim=1).T,
        ).T[:, :3]
        expected = embedding(normalize_points(points, PC_RANGE).flatten())
        torch.testing.assert_close(actual[sample, view][tuple(place)], expected)


@pytest.mark.parametrize(
    'shape',
    [
        (96, 256),
        (96, 256, 3),
        torch.Size([96, 256]),
        [(96, 256, 3)] * 6,
        [(96, 256)] * 2,
        np.array([[96, 256, 3]] * 6),
        [np.array([96, 256, 3])] * 6,
    ],
)
def test_the_size_of_the_images_is_understood_in_every_form(shape):
    size = common_image_shape(shape)
    assert size == (96, 256)
    assert camera_cell_pixels((6, 16), size, 'cpu').shape == (6, 16, 2)


@pytest.mark.parametrize('shape', [[(96, 256, 3), (48, 128, 3)], [(96,)] * 6, (1, 3, 96, 256)])
def test_any_other_size_of_the_images_is_refused_with_what_is_expected(shape):
    with pytest.raises(ValueError, match='all of the same size'):
        common_image_shape(shape)


def test_samples_with_different_numbers_of_views_are_not_mixed_up():
    metas = [dict(lidar2img=np.stack([np.eye(4)] * n), pad_shape=PAD_SHAPE) for n in (1, 3)]
    with pytest.raises(RuntimeError, match='equal size'):
        camera_geometry(metas, torch.zeros(()))
