"""Upright boxes, the one kind of solid the synthetic world is made of."""

from dataclasses import dataclass, fields, replace

import numpy as np

# Signs of the eight corners; index bits are (x, y, z).
CORNER_SIGNS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])

# Faces in the order front (+x), back (-x), left (+y), right (-y), top (+z), bottom (-z): the
# corners at (a, b) = (0, 0), (1, 0), (1, 1), (0, 1), where a and b are a face's own coordinates.
# On the upright faces b goes up; a goes to the left on front and back, forward on the others.
FACE_CORNERS = np.array(
    [[4, 6, 7, 5], [0, 2, 3, 1], [2, 6, 7, 3], [0, 4, 5, 1], [1, 5, 7, 3], [0, 4, 6, 2]]
)
FACE_NORMALS = np.array(
    [[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0], [0, 0, 1.0], [0, 0, -1.0]]
)
NUM_FACES = len(FACE_CORNERS)


@dataclass
class SolidBoxes:
    """N upright boxes with the surface properties that the sensors see.

    Attributes:
        centers: (N, 3) centres in metres.
        half_sizes: (N, 3) half length (x), width (y) and height (z) in metres.
        yaws: (N,) rotation about z in radians.
        textures: (N,) values of :class:`nuscenes_synth.textures.Texture`.
        colors: (N, 2, 3) the two colours that a texture paints with, BGR, 0 to 255.
        reflectivity: (N,) LiDAR intensity at perpendicular incidence, 0 to 255.
        owners: (N,) index of the object a box is part of; -1 for scenery.
    """

    centers: np.ndarray
    half_sizes: np.ndarray
    yaws: np.ndarray
    textures: np.ndarray
    colors: np.ndarray
    reflectivity: np.ndarray
    owners: np.ndarray

    def __len__(self) -> int:
        return len(self.yaws)

    @staticmethod
    def concatenate(groups: list['SolidBoxes']) -> 'SolidBoxes':
        """Join several groups, in order."""
        return SolidBoxes(
            **{
                field.name: np.concatenate([getattr(group, field.name) for group in groups])
                for field in fields(SolidBoxes)
            }
        )

    def placed(self, x: float, y: float, yaw: float, owner: int) -> 'SolidBoxes':
        """Return the boxes moved from an object's frame to the world.

        The object's frame has its origin on the ground, below the object's centre.

        Args:
            x: World x of the object's origin, metres.
            y: World y of the object's origin, metres.
            yaw: Heading of the object, radians.
            owner: Index written to ``owners``.
        """
        poses = np.tile((x, y, yaw), (len(self), 1))
        return replace(self.moved(poses), owners=np.full(len(self), owner))

    def moved(self, poses: np.ndarray) -> 'SolidBoxes':
        """Return the boxes moved from one frame each to a common one.

        Args:
            poses: (N, 3) x, y, yaw of the frames.
        """
        cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
        x, y, z = self.centers.T
        centers = np.stack(
            [poses[:, 0] + cos * x - sin * y, poses[:, 1] + sin * x + cos * y, z], axis=-1
        )
        return replace(self, centers=centers, yaws=self.yaws + poses[:, 2])

    def corners(self) -> np.ndarray:
        """Return the (N, 8, 3) corners, ordered as :data:`CORNER_SIGNS`."""
        x, y, z = np.moveaxis(CORNER_SIGNS * self.half_sizes[:, None], -1, 0)  # (N, 8) each
        cos, sin = np.cos(self.yaws)[:, None], np.sin(self.yaws)[:, None]
        return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1) + self.centers[:, None]


def footprints_overlap(
    center_a: np.ndarray,
    half_a: np.ndarray,
    yaw_a: np.ndarray,
    center_b: np.ndarray,
    half_b: np.ndarray,
    yaw_b: np.ndarray,
) -> np.ndarray:
    """Whether rectangles in the plane overlap (separating axes), broadcast over leading axes.

    Args:
        center_a: (..., 2) centres in metres.
        half_a: (..., 2) half length and half width.
        yaw_a: (...) headings in radians.
        center_b: As ``center_a``, for the second rectangles.
        half_b: As ``half_a``.
        yaw_b: As ``yaw_a``.

    Returns:
        (...) booleans; rectangles that only touch do not overlap.
    """
    offset = center_b - center_a
    relative = yaw_b - yaw_a
    cos, sin = np.abs(np.cos(relative)), np.abs(np.sin(relative))
    overlap = np.ones(np.broadcast(offset[..., 0], relative).shape, dtype=bool)
    for yaw, own, other in ((yaw_a, half_a, half_b), (yaw_b, half_b, half_a)):
        axis_cos, axis_sin = np.cos(yaw), np.sin(yaw)
        along = np.abs(offset[..., 0] * axis_cos + offset[..., 1] * axis_sin)
        across = np.abs(offset[..., 1] * axis_cos - offset[..., 0] * axis_sin)
        overlap &= along < own[..., 0] + other[..., 0] * cos + other[..., 1] * sin
        overlap &= across < own[..., 1] + other[..., 0] * sin + other[..., 1] * cos
    return overlap
