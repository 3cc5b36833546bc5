"""A camera's image and calibration, and what of 3D lines and boxes is in the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mmdet3d.structures import LiDARInstance3DBoxes
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
BoolArray = NDArray[np.bool_]

BOX_EDGES: NDArray[np.int64] = np.array(
    [
        *([0, 1], [1, 2], [2, 3], [3, 0]),
        *([4, 5], [5, 6], [6, 7], [7, 4]),
        *([0, 4], [1, 5], [2, 6], [3, 7]),
    ]
)
"""Edges as pairs of ``LiDARInstance3DBoxes.corners``, of which 0-3 are the rear face."""

FRONT_EDGES = slice(4, 8)
"""Edges of the face that the object heads towards."""

NEAR = 0.1
"""The least depth that is drawn, metres."""


@dataclass(frozen=True)
class CameraView:
    """One camera's image and calibration.

    Attributes:
        name: e.g. ``CAM_FRONT``.
        image: (H, W, 3) uint8, RGB.
        lidar2img: (4, 4), pixel of ``image`` from LiDAR frame: ``(u * d, v * d, d, 1) =
            lidar2img (x, y, z, 1)``, ``u`` to the right, ``v`` down, depth ``d`` in metres.
    """

    name: str
    image: NDArray[np.uint8]
    lidar2img: FloatArray

    def project(self, segments: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Project lines, cut to what is in front of the camera and inside the image.

        Without the cut, a box beside or around the camera gives lines through infinity.

        Args:
            segments: (M, 2, 3) both ends, metres, LiDAR frame.

        Returns:
            Pixels (u, v) of both ends (M, 2, 2), and visible (M,); pixels of what is not visible
            are 0.
        """
        ends = segments @ self.lidar2img[:3, :3].T + self.lidar2img[:3, 3]  # (M, 2, 3): ud, vd, d
        height, width = self.image.shape[:2]
        visible = np.ones(len(ends), dtype=bool)
        # The plane in front of the camera, then the four sides of what it sees.
        sides = ((1, 0, 0), (-1, 0, width), (0, 1, 0), (0, -1, height))
        for normal, bound in (((0, 0, 1), NEAR), *((side, 0.0) for side in sides)):
            distances = ends @ np.array(normal) - bound  # (M, 2)
            outside = distances < 0
            crosses = outside[:, 0] != outside[:, 1]
            start, end = ends[crosses].swapaxes(0, 1)
            before, after = distances[crosses].T[..., None]
            ends[outside & crosses[:, None]] = start + before / (before - after) * (end - start)
            visible &= ~outside.all(axis=1)
        pixels = np.zeros((len(ends), 2, 2))
        pixels[visible] = ends[visible, :, :2] / ends[visible, :, 2:]
        return pixels, visible

    def project_boxes(self, boxes: LiDARInstance3DBoxes) -> tuple[FloatArray, BoolArray]:
        """:meth:`project` for the edges of N boxes.

        Returns:
            Pixels (N, 12, 2, 2) of the :data:`BOX_EDGES`, and visible (N, 12).
        """
        edges = boxes.corners.double().numpy()[:, BOX_EDGES]  # (N, 12, 2, 3)
        pixels, visible = self.project(edges.reshape(-1, 2, 3))
        return pixels.reshape(-1, 12, 2, 2), visible.reshape(-1, 12)
