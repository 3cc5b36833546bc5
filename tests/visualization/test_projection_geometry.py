"""Box geometry of the pictures against slow references: point by point, in plain Python."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.structures import LiDARInstance3DBoxes

from cmt_bias.visualization.projection_geometry import (
    BOX_EDGES,
    FRONT_FACE_EDGES,
    bev_headings,
    bev_outlines,
    box_corners,
    camera_centre_and_axis,
    clip_to_rectangle,
    project_boxes,
    project_segments,
)

HEIGHT, WIDTH = 90, 160
NEAR = 0.1

coordinates = st.floats(-12.0, 12.0)
sizes = st.floats(0.2, 8.0)
angles = st.floats(-math.pi, math.pi)


def forward_camera(yaw: float = 0.0) -> np.ndarray:
    """lidar2img of a camera at (0.3, -0.2, 1.5) that looks along (cos yaw, sin yaw, 0)."""
    forward = [math.cos(yaw), math.sin(yaw), 0.0]
    right = [math.sin(yaw), -math.cos(yaw), 0.0]
    down = [0.0, 0.0, -1.0]
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = [right, down, forward]
    extrinsic[:3, 3] = -extrinsic[:3, :3] @ np.array([0.3, -0.2, 1.5])
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = [[100.0, 0.0, WIDTH / 2], [0.0, 100.0, HEIGHT / 2], [0.0, 0.0, 1.0]]
    return intrinsic @ extrinsic


def slow_corner(box: list[float], along: float, left: float, up: float) -> list[float]:
    """The point of a box at fractions of its length, width and height, by the definition."""
    x, y, z, length, width, height, yaw = box
    return [
        x + along * length * math.cos(yaw) - left * width * math.sin(yaw),
        y + along * length * math.sin(yaw) + left * width * math.cos(yaw),
        z + up * height,
    ]


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


@given(x=coordinates, y=coordinates, yaw=angles, length=sizes, width=sizes, height=sizes)
def test_corners_are_the_definition_written_out(x, y, yaw, length, width, height):
    box = [x, y, -1.0, length, width, height, yaw]
    order = [(0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5)]
    expected = [slow_corner(box, a, b, up) for up in (0.0, 1.0) for a, b in order]
    np.testing.assert_allclose(box_corners(np.array([box]))[0], expected, atol=1e-9)


def test_corners_are_those_of_mmdet3d():
    boxes = np.random.default_rng(0).normal(size=(20, 9))
    boxes[:, 3:6] = np.abs(boxes[:, 3:6]) + 0.1
    reference = LiDARInstance3DBoxes(boxes, box_dim=9).corners.numpy()
    ours = box_corners(boxes)
    for mine, theirs in zip(ours, reference, strict=True):
        distances = np.linalg.norm(mine[:, None] - theirs[None], axis=-1)
        assert distances.min(axis=1).max() < 1e-5
        assert sorted(distances.argmin(axis=1)) == list(range(8))


def test_edges_join_corners_that_differ_in_one_dimension():
    corners = box_corners(np.array([[0.0, 0.0, 0.0, 2.0, 3.0, 5.0, 0.0]]))[0]
    lengths = np.abs(corners[BOX_EDGES[:, 0]] - corners[BOX_EDGES[:, 1]])
    assert (np.count_nonzero(lengths, axis=1) == 1).all()
    assert sorted(lengths.sum(axis=1)) == [2.0] * 4 + [3.0] * 4 + [5.0] * 4
    assert len({tuple(sorted(edge)) for edge in BOX_EDGES.tolist()}) == 12
    front = corners[BOX_EDGES[FRONT_FACE_EDGES].reshape(-1)]
    np.testing.assert_array_equal(front[:, 0], 1.0)


def test_outline_and_heading_from_above():
    boxes = np.array([[10.0, 20.0, 0.0, 4.0, 2.0, 1.5, math.pi / 2, 0.0, 0.0]])
    np.testing.assert_allclose(bev_outlines(boxes)[0], [[9, 22], [11, 22], [11, 18], [9, 18]])
    np.testing.assert_allclose(bev_headings(boxes)[0], [[10, 20], [10, 22]])


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
    boxes = np.array([[x, y, z, length, width, 1.7, yaw]])
    lidar2img = forward_camera(camera_yaw)
    segments, visible = project_boxes(boxes, lidar2img, (HEIGHT, WIDTH), NEAR)
    corners = box_corners(boxes)[0]
    for edge, (first, second) in enumerate(BOX_EDGES):
        for fraction in np.linspace(0.0, 1.0, 41):
            point = (1 - fraction) * corners[first] + fraction * corners[second]
            u, v, depth = slow_pixel(point.tolist(), lidar2img)
            clearly_inside = depth > NEAR + 1e-6 and 1e-6 < u < WIDTH - 1e-6
            if clearly_inside and 1e-6 < v < HEIGHT - 1e-6:
                assert visible[0, edge]
                assert distance_to_segment(np.array([u, v]), *segments[0, edge]) < 1e-5
        ends = segments[0, edge]
        assert (ends >= -1e-6).all() and (ends <= [WIDTH + 1e-6, HEIGHT + 1e-6]).all()


@given(x=coordinates, y=coordinates, yaw=angles, camera_yaw=angles)
def test_drawn_ends_lie_on_the_true_edge(x, y, yaw, camera_yaw):
    boxes = np.array([[x, y, 0.0, 6.0, 2.0, 1.7, yaw]])
    lidar2img = forward_camera(camera_yaw)
    segments, visible = project_boxes(boxes, lidar2img, (HEIGHT, WIDTH), NEAR)
    inverse = np.linalg.inv(lidar2img)
    camera = np.array([0.3, -0.2, 1.5])
    corners = box_corners(boxes)[0]
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
    _, visible = project_boxes(
        np.array([[-10.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.3]]), forward_camera(), (HEIGHT, WIDTH)
    )
    assert not visible.any()


def test_edge_through_the_image_plane_is_cut_there():
    """An edge along the viewing direction from 5 m behind to 5 m ahead, 1 m to the right."""
    segment = np.array([[[-5.0, -1.2, 1.5], [5.3, -1.2, 1.5]]])
    segments, visible = project_segments(segment, forward_camera(), (HEIGHT, WIDTH), near=2.0)
    assert visible.all()
    far, near = WIDTH / 2 + 100 * 1.0 / 5.0, WIDTH / 2 + 100 * 1.0 / 2.0
    np.testing.assert_allclose(segments[0], [[near, HEIGHT / 2], [far, HEIGHT / 2]])


def test_rectangle_clipping_of_known_segments():
    segments = np.array(
        [
            [[-10.0, 5.0], [10.0, 5.0]],
            [[2.0, 2.0], [3.0, 4.0]],
            [[-5.0, 5.0], [5.0, 15.0]],
            [[-2.0, 9.0], [3.0, 14.0]],
        ]
    )
    clipped, inside = clip_to_rectangle(segments, (0.0, 0.0, 8.0, 10.0))
    assert inside.tolist() == [True, True, True, False]
    np.testing.assert_allclose(clipped[0], [[0, 5], [8, 5]])
    np.testing.assert_allclose(clipped[1], segments[1])
    np.testing.assert_allclose(clipped[2], [[0, 10], [0, 10]])


@given(yaw=angles)
def test_camera_centre_and_axis_are_recovered(yaw):
    centre, axis = camera_centre_and_axis(forward_camera(yaw))
    np.testing.assert_allclose(centre, [0.3, -0.2, 1.5], atol=1e-9)
    np.testing.assert_allclose(axis, [math.cos(yaw), math.sin(yaw), 0.0], atol=1e-9)


def test_no_boxes_give_empty_arrays():
    segments, visible = project_boxes(np.zeros((0, 9)), forward_camera(), (HEIGHT, WIDTH))
    assert segments.shape == (0, 12, 2, 2)
    assert visible.shape == (0, 12)


def test_boxes_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r'\(N, >= 7\).*\(3, 4\)'):
        box_corners(np.zeros((3, 4)))
