"""Lines in a camera's image against slow references: point by point, in plain Python."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.structures import LiDARInstance3DBoxes

from cmt_bias.visualization.scene import BOX_EDGES, FRONT_EDGES, NEAR, CameraView

HEIGHT, WIDTH = 90, 160

coordinates = st.floats(-12.0, 12.0)
sizes = st.floats(0.2, 8.0)
angles = st.floats(-math.pi, math.pi)


def boxes_of(*rows: list[float]) -> LiDARInstance3DBoxes:
    return LiDARInstance3DBoxes(np.array(rows).reshape(-1, 7))


def forward_camera(yaw: float = 0.0) -> CameraView:
    """A camera at (0.3, -0.2, 1.5) that looks along (cos yaw, sin yaw, 0)."""
    forward = [math.cos(yaw), math.sin(yaw), 0.0]
    right = [math.sin(yaw), -math.cos(yaw), 0.0]
    down = [0.0, 0.0, -1.0]
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = [right, down, forward]
    extrinsic[:3, 3] = -extrinsic[:3, :3] @ np.array([0.3, -0.2, 1.5])
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = [[100.0, 0.0, WIDTH / 2], [0.0, 100.0, HEIGHT / 2], [0.0, 0.0, 1.0]]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    return CameraView('CAM_FRONT', image, intrinsic @ extrinsic)


def slow_pixel(point: list[float], lidar2img: np.ndarray) -> tuple[float, float, float]:
    """Pixel and depth of one point, written out."""
    u, v, d = (
        sum(float(lidar2img[row, k]) * point[k] for k in range(3)) + float(lidar2img[row, 3])
        for row in range(3)
    )
    return (u / d, v / d, d) if abs(d) > 1e-12 else (math.inf, math.inf, d)


def distance_to_segment(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    along = end - start
    length = float(along @ along)
    fraction = 0.0 if length == 0 else float(np.clip((point - start) @ along / length, 0, 1))
    return float(np.linalg.norm(point - start - fraction * along))


def test_edges_join_corners_that_differ_in_one_dimension():
    corners = boxes_of([0.0, 0.0, 0.0, 2.0, 3.0, 5.0, 0.0]).corners[0].numpy()
    lengths = np.abs(corners[BOX_EDGES[:, 0]] - corners[BOX_EDGES[:, 1]])
    assert (np.count_nonzero(lengths, axis=1) == 1).all()
    assert sorted(lengths.sum(axis=1)) == [2.0] * 4 + [3.0] * 4 + [5.0] * 4
    assert len({tuple(sorted(edge)) for edge in BOX_EDGES.tolist()}) == 12
    front = corners[BOX_EDGES[FRONT_EDGES].reshape(-1)]
    np.testing.assert_array_equal(front[:, 0], 1.0)


@given(
    x=coordinates,
    y=coordinates,
    z=st.floats(-3.0, 3.0),
    yaw=angles,
    length=sizes,
    width=sizes,
    camera_yaw=angles,
)
def test_projected_edges_cover_exactly_the_visible_points(x, y, z, yaw, length, width, camera_yaw):
    boxes, view = boxes_of([x, y, z, length, width, 1.7, yaw]), forward_camera(camera_yaw)
    segments, visible = view.project_boxes(boxes)
    corners = boxes.corners[0].double().numpy()
    for edge, (first, second) in enumerate(BOX_EDGES):
        for fraction in np.linspace(0.0, 1.0, 41):
            point = (1 - fraction) * corners[first] + fraction * corners[second]
            u, v, depth = slow_pixel(point.tolist(), view.lidar2img)
            clearly_inside = depth > NEAR + 1e-6 and 1e-6 < u < WIDTH - 1e-6
            if clearly_inside and 1e-6 < v < HEIGHT - 1e-6:
                assert visible[0, edge]
                assert distance_to_segment(np.array([u, v]), *segments[0, edge]) < 1e-5
        ends = segments[0, edge]
        assert (ends >= -1e-6).all() and (ends <= [WIDTH + 1e-6, HEIGHT + 1e-6]).all()


@given(x=coordinates, y=coordinates, yaw=angles, camera_yaw=angles)
def test_drawn_ends_lie_on_the_true_edge(x, y, yaw, camera_yaw):
    boxes, view = boxes_of([x, y, 0.0, 6.0, 2.0, 1.7, yaw]), forward_camera(camera_yaw)
    segments, visible = view.project_boxes(boxes)
    inverse = np.linalg.inv(view.lidar2img)
    camera = np.array([0.3, -0.2, 1.5])
    corners = boxes.corners[0].double().numpy()
    for edge in np.flatnonzero(visible[0]):
        first, second = corners[BOX_EDGES[edge]]
        normal = np.cross(first - camera, second - camera)
        if np.linalg.norm(normal) < 1e-6:
            continue  # the edge points at the camera: every ray through it is the same
        for u, v in segments[0, edge]:
            ray = (inverse @ [u, v, 1.0, 1.0])[:3] - camera
            sine = ray @ normal / np.linalg.norm(ray) / np.linalg.norm(normal)
            assert abs(sine) < 1e-6


def test_box_behind_the_camera_draws_nothing():
    boxes = boxes_of([-10.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.3])
    assert not forward_camera().project_boxes(boxes)[1].any()


def test_edge_through_the_image_plane_is_cut_there():
    """An edge along the viewing direction from 5 m behind to 5 m ahead, 5 cm to the right."""
    segment = np.array([[[-5.0, -0.25, 1.5], [5.3, -0.25, 1.5]]])
    pixels, visible = forward_camera().project(segment)
    assert visible.all()
    near, far = (WIDTH / 2 + 100 * 0.05 / depth for depth in (NEAR, 5.0))
    np.testing.assert_allclose(pixels[0], [[near, HEIGHT / 2], [far, HEIGHT / 2]])


@pytest.mark.parametrize(
    ('pixels', 'expected'),
    [
        ([[-20, 45], [180, 45]], [[0, 45], [160, 45]]),
        ([[20, 20], [30, 40]], [[20, 20], [30, 40]]),
        ([[-10, 45], [10, 145]], None),
        ([[-20, 80], [30, 130]], None),
        ([[150, -30], [170, -10]], None),
        ([[-10, 75], [10, 85]], [[0, 80], [10, 85]]),
    ],
)
def test_lines_in_front_are_cut_at_the_border_of_the_image(pixels, expected):
    """Lines at a depth of 2 m that are given in pixels."""
    inverse = np.linalg.inv(forward_camera().lidar2img)
    segment = [(inverse @ [2.0 * u, 2.0 * v, 2.0, 1.0])[:3] for u, v in pixels]
    actual, visible = forward_camera().project(np.array([segment]))
    assert visible.all() == (expected is not None)
    if expected is not None:
        np.testing.assert_allclose(actual[0], expected, atol=1e-9)


def test_no_boxes_give_empty_arrays():
    segments, visible = forward_camera().project_boxes(boxes_of())
    assert segments.shape == (0, 12, 2, 2)
    assert visible.shape == (0, 12)
