"""Window geometry against loops over queries, views and cells."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from cmt_bias.bias import find_windows
from cmt_bias.cmt.position_encoding import CameraGeometry
from cmt_bias.ops import NOT_SEEN, QueryWindows, TokenLayout, Window

PC_RANGE = [-20.0, -10.0, -3.0, 20.0, 14.0, 3.0]


def camera(yaw: float, focal: float, size: tuple[float, float]) -> np.ndarray:
    """LiDAR frame to pixels of a camera at the origin that looks along ``yaw``, z up."""
    forward = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    rotation = np.stack([right, [0.0, 0.0, -1.0], forward])
    matrix = np.eye(4)
    intrinsics = np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]])
    matrix[:3, :3] = intrinsics @ rotation
    matrix[:3, 3] = intrinsics @ np.array([0.1, 0.2, -0.3])
    return matrix


def slow_windows(points, lidar2img, pad_shape, bev_shape, camera_shape, sizes, sigmas):
    """``{token: gain}`` of one query, by loops and float64 arithmetic; LiDAR apart from cameras.

    Also how near the point comes to a cell's edge, where float32 may fall on either side.
    """
    lidar, cameras, margin = {}, {}, 1.0

    def add(found, row, column, shape, size, sigma, first):
        for r in range(shape[0]):
            for c in range(shape[1]):
                if max(abs(r - row), abs(c - column)) <= size // 2:
                    squared = (r - row) ** 2 + (c - column) ** 2
                    gain = 1.0 if sigma is None else math.exp(-squared / (2 * sigma**2))
                    found[first + r * shape[1] + c] = gain

    def cell(position, count):
        nonlocal margin
        if 0 < position < count:
            margin = min(margin, abs(position - round(position)))
        return min(math.floor(position), count - 1)

    num_bev = 0
    if bev_shape:
        num_bev = bev_shape[0] * bev_shape[1]
        row, column = (
            cell(points[1] * bev_shape[0], bev_shape[0]),
            cell(points[0] * bev_shape[1], bev_shape[1]),
        )
        add(lidar, row, column, bev_shape, sizes[0], sigmas[0], 0)
    low, high = np.array(PC_RANGE[:3]), np.array(PC_RANGE[3:])
    metres = np.append(points * (high - low) + low, 1.0)
    for view in range(camera_shape[0] if camera_shape else 0):
        u, v, depth, _ = lidar2img[view] @ metres
        margin = min(margin, abs(depth))
        if depth <= 0:
            continue
        u, v = u / (depth + 1e-6), v / (depth + 1e-6)
        margin = min(margin, *(abs(x) for x in (u, v, u - pad_shape[1], v - pad_shape[0])))
        if not (0 <= u < pad_shape[1] and 0 <= v < pad_shape[0]):
            continue
        _, rows, columns = camera_shape
        row, column = (
            cell(v * rows / pad_shape[0], rows),
            cell(u * columns / pad_shape[1], columns),
        )
        first = num_bev + view * rows * columns
        add(cameras, row, column, (rows, columns), sizes[1], sigmas[1], first)
    return lidar, cameras, margin


def found(windows: QueryWindows, sample: int, query: int) -> tuple[dict, dict]:
    """``{token: gain}`` of LiDAR and cameras."""
    mask = windows.to_mask()[sample, query]
    inside = mask.nonzero().squeeze(1)
    gain = windows.gain(torch.float64)[sample, query]
    assert not gain[~mask].any()
    split = windows.layout.num_lidar_tokens
    lidar, cameras = (
        {token: gain[token].item() for token in part.tolist()}
        for part in (inside[inside < split], inside[inside >= split])
    )
    return lidar, cameras


def calibration(lidar2img: np.ndarray, pad_shape: tuple[int, int]) -> CameraGeometry:
    matrices = torch.from_numpy(lidar2img)
    return CameraGeometry(matrices, matrices.inverse(), pad_shape)


def layout_of(bev_shape, camera_shape) -> TokenLayout:
    return TokenLayout(bev_shape, *(camera_shape[0], camera_shape[1:]) if camera_shape else ())


map_sides = st.integers(1, 9)
window_sizes = st.sampled_from([1, 3, 5, 7])


@given(
    seed=st.integers(0, 10_000),
    bev_shape=st.none() | st.tuples(map_sides, map_sides),
    camera_shape=st.none() | st.tuples(st.integers(1, 4), map_sides, map_sides),
    pad_shape=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    sizes=st.tuples(window_sizes, window_sizes),
    gaussian=st.booleans(),
)
def test_windows_equal_those_found_by_loops(
    seed, bev_shape, camera_shape, pad_shape, sizes, gaussian
):
    assume(bev_shape or camera_shape)
    rng = np.random.default_rng(seed)
    points = rng.uniform(size=(2, 6, 3))
    points[0, 0], points[0, 1] = 0.0, 1.0  # the corners of the range
    views = camera_shape[0] if camera_shape else 1
    # each sample has its own calibration, and a camera sees less or more than the padded image
    lidar2img = np.stack(
        [
            [
                camera(rng.uniform(-3, 3), rng.uniform(5, 60), rng.uniform(8, 60, size=2))
                for _ in range(views)
            ]
            for _ in range(2)
        ]
    )
    sigmas = (1.5, 0.8) if gaussian else (None, None)
    lidar, cameras = (Window(size // 2, s) for size, s in zip(sizes, sigmas, strict=True))
    windows = find_windows(
        torch.from_numpy(points),
        layout_of(bev_shape, camera_shape),
        calibration(lidar2img, pad_shape) if camera_shape else None,
        PC_RANGE,
        (lidar, cameras),
    )
    assert windows.cells.dtype == torch.int32
    for sample in range(2):
        for query in range(points.shape[1]):
            *expected, margin = slow_windows(
                points[sample, query],
                lidar2img[sample],
                pad_shape,
                bev_shape,
                camera_shape,
                sizes,
                sigmas,
            )
            if margin < 1e-5:
                continue  # on an edge: rounding decides
            actual = found(windows, sample, query)
            for expected_gains, actual_gains in zip(expected, actual, strict=True):
                assert actual_gains == pytest.approx(expected_gains, abs=1e-12)


def windows_of_one_point(point, **changes) -> QueryWindows:
    lidar2img = np.stack([camera(0.0, 10.0, (20, 40)), camera(0.6, 10.0, (20, 40))])
    arguments = dict(
        reference_points=torch.tensor([[point]], dtype=torch.float64),
        layout=TokenLayout((6, 8), 2, (5, 10)),
        cameras=calibration(lidar2img[None], (20, 40)),
        pc_range=PC_RANGE,
        shapes=(Window(1), Window(1)),
    )
    return find_windows(**dict(arguments, **changes))


def normalized(x: float, y: float, z: float) -> list[float]:
    return [(x + 20) / 40, (y + 10) / 24, (z + 3) / 6]


def test_point_in_two_views_has_a_window_in_both():
    windows = windows_of_one_point(normalized(10, 3, 0))
    _, cameras = found(windows, 0, 0)
    assert {(token - 48) // 50 for token in cameras} == {0, 1}
    assert len(cameras) == 2 * 9


def test_point_behind_all_cameras_has_no_camera_window():
    windows = windows_of_one_point(normalized(-10, -3, 0))
    lidar, cameras = found(windows, 0, 0)
    assert len(lidar) == 9 and not cameras
    assert torch.all(windows.cells[0, 0, 1:, 0] == NOT_SEEN)


def test_window_at_the_edge_does_not_run_into_the_next_row():
    lidar, _ = found(windows_of_one_point(normalized(19.9, 0, 0)), 0, 0)
    assert sorted(token % 8 for token in lidar) == [6, 6, 6, 7, 7, 7]


def test_window_at_the_edge_of_a_view_does_not_run_into_the_next_view():
    right_edge = windows_of_one_point(normalized(4, -7, 0))
    assert right_edge.cells[0, 0, 1].tolist() == [2, 9]  # in the last of ten columns
    _, cameras = found(right_edge, 0, 0)
    assert sorted(cameras) == [66, 67, 76, 77, 86, 87]


def test_whole_modality_counts_for_a_query_that_no_camera_sees():
    windows = windows_of_one_point(normalized(-10, -3, 0), shapes=(Window(1), Window(None)))
    lidar, cameras = found(windows, 0, 0)
    assert len(lidar) == 9 and set(cameras) == set(range(48, 148))


def test_point_in_a_cameras_own_plane_has_cells():
    """Its pixels are beyond any integer."""
    windows = windows_of_one_point(normalized(0, 0.1, 0.3))
    assert torch.all(windows.cells[0, 0, 1:, 0] == NOT_SEEN)


def test_no_gradient_flows_to_the_reference_points():
    points = torch.rand(1, 4, 3, requires_grad=True)
    windows = windows_of_one_point([0.5, 0.5, 0.5], reference_points=points)
    assert not windows.cells.requires_grad
