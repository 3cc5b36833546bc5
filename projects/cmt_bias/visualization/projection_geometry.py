"""Geometry of drawn 3D boxes: corners, clipping, camera projection and bird's-eye-view outlines.

Everything here is a function of numpy arrays and knows nothing of drawing or of MMDetection3D.

Boxes are rows ``(x, y, z, length, width, height, yaw, ...)`` in metres and radians in the LiDAR
frame, with ``z`` at the bottom of the box and the heading ``(cos yaw, sin yaw)``: the layout of
``LiDARInstance3DBoxes.tensor``. Columns after the seventh (velocity) are not looked at.

A camera is its ``lidar2img`` matrix P (4, 4): ``(u * d, v * d, d, 1) = P (x, y, z, 1)`` with the
pixel ``(u, v)``, ``u`` to the right and ``v`` down, and the depth ``d`` in metres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

# Corners 0-3 are the bottom face, 4-7 the top face above them; 0, 1, 4, 5 are the front face.
_UNIT_CORNERS = np.array(
    [
        [0.5, 0.5, 0.0],
        [0.5, -0.5, 0.0],
        [-0.5, -0.5, 0.0],
        [-0.5, 0.5, 0.0],
        [0.5, 0.5, 1.0],
        [0.5, -0.5, 1.0],
        [-0.5, -0.5, 1.0],
        [-0.5, 0.5, 1.0],
    ]
)
BOX_EDGES: NDArray[np.int64] = np.array(
    [
        [0, 1],
        [1, 2],
        [2, 3],
        [3, 0],
        [4, 5],
        [5, 6],
        [6, 7],
        [7, 4],
        [0, 4],
        [1, 5],
        [2, 6],
        [3, 7],
    ]
)
"""The twelve edges of a box as pairs of corner numbers of :func:`box_corners`, shape (12, 2)."""

FRONT_FACE_EDGES: NDArray[np.int64] = np.array([0, 4, 8, 9])
"""Rows of :data:`BOX_EDGES` that bound the face the object heads towards."""


def box_corners(boxes: FloatArray) -> FloatArray:
    """Corners of bottom-centred boxes.

    Args:
        boxes: (N, >= 7), metres and radians, LiDAR frame.

    Returns:
        (N, 8, 3): front left, front right, rear right, rear left of the bottom face, then the
        same four of the top face; metres, LiDAR frame.

    Raises:
        ValueError: if ``boxes`` is not of shape (N, >= 7).
    """
    boxes = _checked_boxes(boxes)
    local = _UNIT_CORNERS * boxes[:, None, 3:6]  # (N, 8, 3)
    cos, sin = np.cos(boxes[:, 6:7]), np.sin(boxes[:, 6:7])
    x = local[..., 0] * cos - local[..., 1] * sin
    y = local[..., 0] * sin + local[..., 1] * cos
    return np.stack([x, y, local[..., 2]], axis=-1) + boxes[:, None, :3]


def bev_outlines(boxes: FloatArray) -> FloatArray:
    """Outlines of boxes seen from above.

    Args:
        boxes: (N, >= 7), metres and radians, LiDAR frame.

    Returns:
        (N, 4, 2): (x, y) of front left, front right, rear right, rear left; metres.

    Raises:
        ValueError: if ``boxes`` is not of shape (N, >= 7).
    """
    return box_corners(boxes)[:, :4, :2]


def bev_headings(boxes: FloatArray) -> FloatArray:
    """Line from each box's centre to the middle of its front side, seen from above.

    Args:
        boxes: (N, >= 7), metres and radians, LiDAR frame.

    Returns:
        (N, 2, 2): start and end points (x, y), metres.

    Raises:
        ValueError: if ``boxes`` is not of shape (N, >= 7).
    """
    boxes = _checked_boxes(boxes)
    centres = boxes[:, :2]
    forward = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=-1)
    return np.stack([centres, centres + 0.5 * boxes[:, 3:4] * forward], axis=1)


def project_boxes(
    boxes: FloatArray, lidar2img: FloatArray, image_size: tuple[int, int], near: float = 0.1
) -> tuple[FloatArray, BoolArray]:
    """Draw boxes as line segments inside an image.

    Each edge is cut where it passes behind the camera and then at the image border, so that a box
    beside or around the camera gives no line through infinity.

    Args:
        boxes: (N, >= 7), metres and radians, LiDAR frame.
        lidar2img: (4, 4), pixel from LiDAR frame.
        image_size: (height, width) in pixels.
        near: the least depth that is drawn, metres.

    Returns:
        Segments (N, 12, 2, 2), the (u, v) pixels of both ends of each edge in :data:`BOX_EDGES`,
        and visible (N, 12), False where nothing of the edge is in the image (its segment is 0).

    Raises:
        ValueError: if ``boxes`` is not of shape (N, >= 7).
    """
    corners = box_corners(boxes)  # (N, 8, 3)
    edges = corners[:, BOX_EDGES].reshape(-1, 2, 3)  # (N * 12, 2, 3)
    segments, visible = project_segments(edges, lidar2img, image_size, near)
    return segments.reshape(-1, 12, 2, 2), visible.reshape(-1, 12)


def project_segments(
    segments: FloatArray, lidar2img: FloatArray, image_size: tuple[int, int], near: float = 0.1
) -> tuple[FloatArray, BoolArray]:
    """Project 3D line segments into an image, cut to what is in front of the camera and inside.

    Args:
        segments: (M, 2, 3), metres, LiDAR frame.
        lidar2img: (4, 4), pixel from LiDAR frame.
        image_size: (height, width) in pixels.
        near: the least depth that is drawn, metres.

    Returns:
        Pixels (M, 2, 2) and visible (M,); pixels of invisible segments are 0.
    """
    camera = segments @ lidar2img[:3, :3].T + lidar2img[:3, 3]  # (M, 2, 3): u * d, v * d, d
    camera, in_front = _clip_to_half_space(camera, camera[..., 2] - near)
    depths = np.where(in_front[:, None], camera[..., 2], 1.0)
    pixels = camera[..., :2] / depths[..., None]
    height, width = image_size
    pixels, inside = clip_to_rectangle(pixels, (0.0, 0.0, float(width), float(height)))
    visible = in_front & inside
    return np.where(visible[:, None, None], pixels, 0.0), visible


def clip_to_rectangle(
    segments: FloatArray, rectangle: tuple[float, float, float, float]
) -> tuple[FloatArray, BoolArray]:
    """Cut 2D line segments to a rectangle.

    Args:
        segments: (M, 2, 2), both ends (u, v) of each segment.
        rectangle: (u_min, v_min, u_max, v_max).

    Returns:
        The cut segments (M, 2, 2) and inside (M,), False where no point of the segment lies in
        the rectangle (its coordinates are then meaningless).
    """
    u_min, v_min, u_max, v_max = rectangle
    inside = np.ones(len(segments), dtype=bool)
    for axis, sign, bound in ((0, 1, u_min), (0, -1, -u_max), (1, 1, v_min), (1, -1, -v_max)):
        segments, kept = _clip_to_half_space(segments, sign * segments[..., axis] - bound)
        inside &= kept
    return segments, inside


def camera_centre_and_axis(lidar2img: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Where a camera stands and which way it looks.

    Args:
        lidar2img: (4, 4), pixel from LiDAR frame.

    Returns:
        The camera's centre (3,) in metres and its unit viewing direction (3,), LiDAR frame.
    """
    rotation, translation = lidar2img[:3, :3], lidar2img[:3, 3]
    centre = -np.linalg.solve(rotation, translation)  # the one point that projects to (0, 0, 0)
    axis = rotation[2] / np.linalg.norm(rotation[2])  # depth grows fastest along the third row
    return centre, axis


def _clip_to_half_space(
    segments: FloatArray, signed_distances: FloatArray
) -> tuple[FloatArray, BoolArray]:
    """Cut segments (M, 2, K) to where a linear function, given at both ends (M, 2), is >= 0."""
    start, end = signed_distances[:, 0], signed_distances[:, 1]
    crosses = (start < 0) != (end < 0)
    fraction = np.where(crosses, start / np.where(crosses, start - end, 1.0), 0.0)  # (M,)
    crossing = segments[:, 0] + fraction[:, None] * (segments[:, 1] - segments[:, 0])
    outside = signed_distances < 0  # (M, 2)
    clipped = np.where((outside & crosses[:, None])[..., None], crossing[:, None], segments)
    return clipped, ~outside.all(axis=1)


def _checked_boxes(boxes: FloatArray) -> FloatArray:
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] < 7:
        raise ValueError(
            'boxes must have shape (N, >= 7): x, y, z (bottom), length, width, height, yaw; '
            f'got shape {boxes.shape}'
        )
    return boxes
