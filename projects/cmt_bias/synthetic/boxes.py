"""Upright boxes, the one kind of solid the synthetic world is made of, and rays against them."""

from dataclasses import dataclass, fields

import numpy as np

# Signs of the eight corners; index bits are (x, y, z).
CORNER_SIGNS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])

# Index pairs into CORNER_SIGNS that differ in one coordinate: the twelve edges of a box.
CORNER_EDGES = np.array(
    [(i, j) for i in range(8) for j in range(i + 1, 8) if bin(i ^ j).count('1') == 1]
)


@dataclass
class SolidBoxes:
    """N upright boxes with the surface properties that the sensors see.

    Attributes:
        centers: (N, 3) centres in metres.
        half_sizes: (N, 3) half length (x), width (y) and height (z) in metres.
        yaws: (N,) rotation about z in radians.
        colors: (N, 3) colour in BGR, 0 to 255.
        accent_colors: (N, 3) second colour, which some materials use, BGR.
        materials: (N,) values of :class:`cmt_bias.synthetic.materials.Material`.
        reflectivity: (N,) LiDAR intensity at perpendicular incidence, 0 to 255.
        owners: (N,) index of the object a box is part of; -1 for scenery.
    """

    centers: np.ndarray
    half_sizes: np.ndarray
    yaws: np.ndarray
    colors: np.ndarray
    accent_colors: np.ndarray
    materials: np.ndarray
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
        centers = self.centers @ yaw_rotation(yaw).T + np.array([x, y, 0.0])
        return SolidBoxes(
            centers=centers,
            half_sizes=self.half_sizes,
            yaws=self.yaws + yaw,
            colors=self.colors,
            accent_colors=self.accent_colors,
            materials=self.materials,
            reflectivity=self.reflectivity,
            owners=np.full(len(self), owner),
        )

    def corners(self) -> np.ndarray:
        """Return the (N, 8, 3) corners, ordered as :data:`CORNER_SIGNS`."""
        offsets = CORNER_SIGNS[None] * self.half_sizes[:, None]  # (N, 8, 3)
        cos, sin = np.cos(self.yaws)[:, None], np.sin(self.yaws)[:, None]
        rotated = np.stack(
            [
                cos * offsets[..., 0] - sin * offsets[..., 1],
                sin * offsets[..., 0] + cos * offsets[..., 1],
                offsets[..., 2],
            ],
            axis=-1,
        )
        return rotated + self.centers[:, None]


def yaw_rotation(yaw: float) -> np.ndarray:
    """Return the (3, 3) rotation by ``yaw`` radians about z."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def intersect_box(
    origin: np.ndarray,
    directions: np.ndarray,
    center: np.ndarray,
    half_size: np.ndarray,
    yaw: float,
) -> np.ndarray:
    """Distance along rays to the first surface of one upright box (slab method).

    Args:
        origin: (3,) common origin of the rays, metres.
        directions: (..., 3) ray directions; a result counts multiples of a direction's length.
        center: (3,) centre of the box.
        half_size: (3,) half sizes of the box.
        yaw: Heading of the box, radians.

    Returns:
        (...) float32 multiples of the direction, infinity where the ray misses the box or
        starts inside it.
    """
    cos, sin = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
    offset = origin - center
    local_origin = (
        cos * offset[0] + sin * offset[1],
        -sin * offset[0] + cos * offset[1],
        offset[2],
    )
    world_x, world_y, world_z = directions[..., 0], directions[..., 1], directions[..., 2]
    local_directions = (cos * world_x + sin * world_y, cos * world_y - sin * world_x, world_z)
    entry = np.full(world_x.shape, -np.inf, dtype=np.float32)
    leave = np.full(world_x.shape, np.inf, dtype=np.float32)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        for start, half, component in zip(local_origin, half_size, local_directions, strict=True):
            inverse = np.float32(1.0) / component
            near = np.float32(-half - start) * inverse
            far = np.float32(half - start) * inverse
            entry = np.fmax(entry, np.fmin(near, far))
            leave = np.fmin(leave, np.fmax(near, far))
    hit = (entry <= leave) & (entry > 0)
    return np.where(hit, entry, np.float32(np.inf))


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
