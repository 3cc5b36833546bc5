"""Rays against the boxes and the ground of a scene, by Open3D's ray caster (Embree)."""

import ctypes
import ctypes.util
import importlib.util
from dataclasses import dataclass

import numpy as np

from .boxes import FACE_CORNERS, NUM_FACES, SolidBoxes

if ctypes.util.find_library('usb-1.0') is None and importlib.util.find_spec('libusb_package'):
    # Open3D links to libusb, which a bare server lacks; once loaded it is found by its name.
    import libusb_package

    ctypes.CDLL(str(libusb_package.get_library_path()))

import open3d

TRIANGLES_PER_BOX = 2 * NUM_FACES
# The two triangles of each face: (a, b) = (u, v) in the first and (1 - u, 1 - v) in the second.
_TRIANGLES = FACE_CORNERS[:, [[0, 1, 3], [2, 3, 1]]].reshape(-1, 3)


@dataclass(frozen=True)
class Hits:
    """Nearest surfaces along rays.

    Attributes:
        distance: (...) float32 multiples of the ray's direction, infinity in the sky.
        triangle: (...) int32 number of the triangle hit, twelve a box; -1 for ground and sky.
        uv: (..., 2) float32 barycentric coordinates in the triangle.
    """

    distance: np.ndarray
    triangle: np.ndarray
    uv: np.ndarray


class Rays:
    """Rays from one point, laid out for the ray caster once.

    Args:
        origin: (3,) where the rays start, metres above the plane z = 0 that is the ground.
        directions: (..., 3) of any length.

    Attributes:
        origin: (3,) float32.
        directions: (..., 3) float32.
        to_ground: (...) float32 multiples of a direction to the ground, infinity if never.
    """

    def __init__(self, origin: np.ndarray, directions: np.ndarray) -> None:
        self.origin = origin.astype(np.float32)
        self.directions = directions.astype(np.float32)
        packed = np.empty((*directions.shape[:-1], 6), dtype=np.float32)
        packed[..., :3], packed[..., 3:] = origin, directions
        self.packed = open3d.core.Tensor.from_numpy(packed)
        down = self.directions[..., 2] < 0
        with np.errstate(divide='ignore'):
            distance = -self.origin[2] / self.directions[..., 2]
        self.to_ground = np.where(down, distance, np.float32(np.inf))


class RayCaster:
    """Casts rays against boxes that stand on the ground, in the frame of the ego vehicle.

    Args:
        boxes: Solids in the ego frame, where single precision is fine enough.
    """

    def __init__(self, boxes: SolidBoxes) -> None:
        self.boxes = boxes
        corners = boxes.corners().astype(np.float32).reshape(-1, 3)
        first_corners = 8 * np.arange(len(boxes))[:, None, None]
        triangles = (_TRIANGLES + first_corners).astype(np.uint32).reshape(-1, 3)
        self._scene = open3d.t.geometry.RaycastingScene(nthreads=1)
        if len(boxes):
            tensors = (open3d.core.Tensor.from_numpy(array) for array in (corners, triangles))
            self._scene.add_triangles(*tensors)

    def cast(self, rays: Rays) -> Hits:
        """Find the nearest surfaces."""
        result = self._scene.cast_rays(rays.packed, nthreads=1)
        distance = result['t_hit'].numpy()
        triangle = result['primitive_ids'].numpy().view(np.int32)
        triangle[rays.to_ground <= distance] = -1  # Open3D's own number for the sky
        distance = np.minimum(distance, rays.to_ground)
        return Hits(distance, triangle, result['primitive_uvs'].numpy())
