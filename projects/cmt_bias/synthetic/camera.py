"""A camera that renders the boxes and the ground of a scene, one ray per pixel."""

from dataclasses import dataclass

import cv2
import numpy as np

from .boxes import CORNER_EDGES, SolidBoxes, intersect_box
from .materials import surface_pattern
from .road import Ground, Road
from .weather import Weather

_NEAR_PLANE = 0.2
_SUN_DIRECTION = np.array([0.45, 0.3, 0.84], dtype=np.float32)
_HEADLIGHT_REACH = 26.0
_HEADLIGHT_HALF_ANGLE = 0.5
_LAMP_REACH = 7.0
_LAMP_STEP = 0.5
_LAMP_BRIGHTNESS = 0.55
_LAMP_COLOR = np.array([0.62, 0.85, 1.0], dtype=np.float32)

_GROUND_BGR = np.zeros((len(Ground), 3), dtype=np.float32)
_GROUND_BGR[Ground.ASPHALT] = (98, 95, 92)
_GROUND_BGR[Ground.WHITE_MARKING] = (215, 215, 215)
_GROUND_BGR[Ground.YELLOW_MARKING] = (70, 175, 205)
_GROUND_BGR[Ground.PARKING] = (112, 108, 104)
_GROUND_BGR[Ground.SIDEWALK] = (152, 156, 160)
_GROUND_BGR[Ground.GRASS] = (66, 118, 88)


@dataclass(frozen=True)
class CameraView:
    """A rendered image and what each of its pixels shows.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        owners: (H, W) int index of the visible actor, -1 for everything else.
        depth: (H, W) float32 depth along the optical axis in metres, infinity for the sky.
        covered_pixels: (num_actors,) pixels an actor would cover if nothing hid it.
    """

    image: np.ndarray
    owners: np.ndarray
    depth: np.ndarray
    covered_pixels: np.ndarray


@dataclass(frozen=True)
class CameraPose:
    """Where a camera is and how it images.

    Attributes:
        world_from_camera: (4, 4) pose of the camera (x right, y down, z forward).
        world_from_ego: (4, 4) pose of the vehicle, which carries the headlights.
        intrinsics: (3, 3) pixel <- camera matrix.
        width: Image width in pixels.
        height: Image height in pixels.
    """

    world_from_camera: np.ndarray
    world_from_ego: np.ndarray
    intrinsics: np.ndarray
    width: int
    height: int

    def ray_directions(self) -> np.ndarray:
        """Return (H, W, 3) float32 world directions through pixel centres, 1 m deep each."""
        u = (np.arange(self.width) + 0.5 - self.intrinsics[0, 2]) / self.intrinsics[0, 0]
        v = (np.arange(self.height) + 0.5 - self.intrinsics[1, 2]) / self.intrinsics[1, 1]
        in_camera = np.ones((self.height, self.width, 3))
        in_camera[..., 0], in_camera[..., 1] = u[None], v[:, None]
        return (in_camera @ self.world_from_camera[:3, :3].T).astype(np.float32)

    def pixel_extents(self, corners: np.ndarray) -> np.ndarray:
        """Smallest pixel rectangles around boxes, clipped to the image.

        Args:
            corners: (N, 8, 3) world corners, ordered as ``CORNER_SIGNS``.

        Returns:
            (N, 4) int u0, v0, u1, v1 with exclusive ends; empty (u1 <= u0 or v1 <= v0) where a
            box is not in the image.
        """
        points = (corners - self.world_from_camera[:3, 3]) @ self.world_from_camera[:3, :3]
        start, end = points[:, CORNER_EDGES[:, 0]], points[:, CORNER_EDGES[:, 1]]
        z_start, z_end = start[..., 2], end[..., 2]
        crosses = (z_start < _NEAR_PLANE) != (z_end < _NEAR_PLANE)
        share = (_NEAR_PLANE - z_start) / np.where(crosses, z_end - z_start, 1.0)
        cut = start + share[..., None] * (end - start)  # (N, 12, 3) on the near plane
        candidates = np.concatenate([points, cut], axis=1)  # (N, 20, 3)
        usable = np.concatenate([points[..., 2] >= _NEAR_PLANE, crosses], axis=1)
        depth = np.where(usable, candidates[..., 2], 1.0)
        pixels = candidates @ self.intrinsics.T
        u, v = pixels[..., 0] / depth, pixels[..., 1] / depth
        extents = np.stack(
            [
                np.where(usable, u, np.inf).min(axis=1),
                np.where(usable, v, np.inf).min(axis=1),
                np.where(usable, u, -np.inf).max(axis=1) + 1,
                np.where(usable, v, -np.inf).max(axis=1) + 1,
            ],
            axis=-1,
        )
        limits = np.array([self.width, self.height, self.width, self.height])
        return np.clip(np.floor(extents), 0, limits).astype(int)


class LampLight:
    """Light of street lamps on a grid over the ground, which is quicker to read than to sum.

    Args:
        positions: (L, 2) world x, y of the lamps, metres.
    """

    def __init__(self, positions: np.ndarray) -> None:
        margin = 4 * _LAMP_REACH
        self._start = positions.min(axis=0) - margin
        columns, rows = np.ceil((positions.max(axis=0) + margin - self._start) / _LAMP_STEP)
        x = self._start[0] + (np.arange(int(columns)) + 0.5) * _LAMP_STEP
        y = self._start[1] + (np.arange(int(rows)) + 0.5) * _LAMP_STEP
        # A Gaussian is the product of its profiles along x and y.
        along_x = np.exp(-((x - positions[:, :1]) ** 2) / (2 * _LAMP_REACH**2))  # (L, columns)
        along_y = np.exp(-((y - positions[:, 1:]) ** 2) / (2 * _LAMP_REACH**2))  # (L, rows)
        self._grid = (_LAMP_BRIGHTNESS * along_y.T @ along_x).astype(np.float32)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Return the (N,) brightness at (N, 2) world x, y; 0 off the grid."""
        cells = np.floor((points - self._start) / _LAMP_STEP).astype(int)
        rows, columns = self._grid.shape
        inside = ((cells >= 0) & (cells < (columns, rows))).all(axis=1)
        cells = np.where(inside[:, None], cells, 0)
        return np.where(inside, self._grid[cells[:, 1], cells[:, 0]], np.float32(0))


def render(
    pose: CameraPose,
    boxes: SolidBoxes,
    num_actors: int,
    road: Road,
    weather: Weather,
    lamps: LampLight,
    rng: np.random.Generator,
) -> CameraView:
    """Render one image.

    Args:
        pose: The camera.
        boxes: Solids in the world; ``owners`` in [-1, num_actors).
        num_actors: Number of annotated objects.
        road: Colours the ground.
        weather: Decides on light, haze, rain and noise.
        lamps: Street lamps, lit at night.
        rng: Source of noise.
    """
    directions = pose.ray_directions()
    origin = pose.world_from_camera[:3, 3]
    with np.errstate(divide='ignore'):
        to_ground = np.float32(-origin[2]) / directions[..., 2]
    depth = np.where(directions[..., 2] < 0, to_ground, np.float32(np.inf))
    part = np.full(depth.shape, -1)
    covered = _draw_boxes(pose, boxes, num_actors, directions, depth, part)

    image = _shade(pose, boxes, road, weather, lamps, directions, depth, part)
    image = _degrade(image, weather, rng)
    owners = np.full(part.shape, -1)
    owners[part >= 0] = boxes.owners[part[part >= 0]]
    return CameraView(image, owners, depth, covered)


def _draw_boxes(
    pose: CameraPose,
    boxes: SolidBoxes,
    num_actors: int,
    directions: np.ndarray,
    depth: np.ndarray,
    part: np.ndarray,
) -> np.ndarray:
    """Update ``depth`` and ``part`` in place; return each actor's unoccluded pixel count."""
    origin = pose.world_from_camera[:3, 3]
    extents = pose.pixel_extents(boxes.corners())
    visible = (extents[:, 2] > extents[:, 0]) & (extents[:, 3] > extents[:, 1])
    covered = np.zeros(num_actors, dtype=int)
    for owner in np.unique(boxes.owners[visible]):
        members = np.flatnonzero(visible & (boxes.owners == owner))
        alone = np.zeros(depth.shape, dtype=bool) if owner >= 0 else None
        for index in members:
            u0, v0, u1, v1 = extents[index]
            window = np.s_[v0:v1, u0:u1]
            hit = intersect_box(
                origin,
                directions[window],
                boxes.centers[index],
                boxes.half_sizes[index],
                boxes.yaws[index],
            )
            if alone is not None:
                alone[window] |= np.isfinite(hit)
            nearer = hit < depth[window]
            depth[window][nearer] = hit[nearer]
            part[window][nearer] = index
        if alone is not None:
            covered[owner] = np.count_nonzero(alone)
    return covered


def _shade(
    pose: CameraPose,
    boxes: SolidBoxes,
    road: Road,
    weather: Weather,
    lamps: LampLight,
    directions: np.ndarray,
    depth: np.ndarray,
    part: np.ndarray,
) -> np.ndarray:
    """Colour every pixel, (H, W, 3) float32 BGR."""
    image = _sky(directions, weather)
    seen = np.isfinite(depth)
    points = pose.world_from_camera[:3, 3].astype(np.float32) + (
        depth[seen][:, None] * directions[seen]
    )
    parts = part[seen]
    colors = np.empty((len(parts), 3), dtype=np.float32)
    light = np.ones(len(parts), dtype=np.float32)
    shines = np.zeros(len(parts), dtype=bool)

    on_ground = parts < 0
    colors[on_ground] = _ground_colors(road, points[on_ground], weather)
    solid = ~on_ground
    colors[solid], light[solid], shines[solid] = _solid_colors(
        boxes, parts[solid], points[solid], weather
    )
    illumination = _illumination(pose, points, lamps, weather) * light[:, None]
    illumination[shines] = 1.0
    colors *= illumination
    haze = np.exp(-depth[seen] / weather.visibility)[:, None]
    image[seen] = haze * colors + (1 - haze) * np.array(weather.sky_horizon, dtype=np.float32)
    return image


def _sky(directions: np.ndarray, weather: Weather) -> np.ndarray:
    level = np.hypot(directions[..., 0], directions[..., 1])
    height = np.clip(directions[..., 2] / (0.6 * level), 0.0, 1.0)[..., None]
    horizon = np.array(weather.sky_horizon, dtype=np.float32)
    zenith = np.array(weather.sky_zenith, dtype=np.float32)
    return horizon + height * (zenith - horizon)


def _ground_colors(road: Road, points: np.ndarray, weather: Weather) -> np.ndarray:
    colors = _GROUND_BGR[road.ground_at(points[:, 0], points[:, 1])]
    cell_x = np.floor(points[:, 0] * 6).astype(np.int64)
    cell_y = np.floor(points[:, 1] * 6).astype(np.int64)
    grain = ((cell_x * 73856093) ^ (cell_y * 19349663)) % 17  # fixed in the world
    colors = colors * (0.92 + 0.01 * grain.astype(np.float32))[:, None]
    return colors * 0.75 if weather.name == 'rain' else colors


def _solid_colors(
    boxes: SolidBoxes, parts: np.ndarray, points: np.ndarray, weather: Weather
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colour, brightness by surface direction, and whether it shines, of points on boxes."""
    yaw = boxes.yaws[parts].astype(np.float32)
    cos, sin = np.cos(yaw), np.sin(yaw)
    offset = points - boxes.centers[parts].astype(np.float32)
    local = np.stack(
        [
            cos * offset[:, 0] + sin * offset[:, 1],
            -sin * offset[:, 0] + cos * offset[:, 1],
            offset[:, 2],
        ],
        axis=-1,
    )
    half_sizes = boxes.half_sizes[parts].astype(np.float32)
    colors, shines = surface_pattern(
        boxes.materials[parts], boxes.colors[parts], boxes.accent_colors[parts], local, half_sizes
    )
    unit = local / half_sizes
    face = np.abs(unit).argmax(axis=1)
    sign = np.sign(np.take_along_axis(unit, face[:, None], axis=1)[:, 0])
    normal_dot_sun = sign * np.choose(
        face,
        [
            cos * _SUN_DIRECTION[0] + sin * _SUN_DIRECTION[1],
            -sin * _SUN_DIRECTION[0] + cos * _SUN_DIRECTION[1],
            np.full_like(cos, _SUN_DIRECTION[2]),
        ],
    )
    light = 1.0 - weather.sun + weather.sun * (0.35 + 0.75 * np.maximum(normal_dot_sun, 0.0))
    # Sides facing away are darker under any sky, or a box would lose its edges.
    light *= np.choose(face, [0.9, 0.8, 1.0])
    return colors, light.astype(np.float32), shines


def _illumination(
    pose: CameraPose, points: np.ndarray, lamps: LampLight, weather: Weather
) -> np.ndarray:
    """Light arriving at points, (N, 3) factors for B, G and R."""
    result = np.full((len(points), 3), weather.ambient, dtype=np.float32)
    if not weather.is_night:
        return result
    in_ego = (points - pose.world_from_ego[:3, 3].astype(np.float32)) @ pose.world_from_ego[
        :3, :3
    ].astype(np.float32)
    ahead = np.maximum(in_ego[:, 0] - 3.0, 0.1)
    angle = np.abs(np.arctan2(in_ego[:, 1], ahead))
    beam = np.exp(-((angle / _HEADLIGHT_HALF_ANGLE) ** 4)) / (1 + (ahead / _HEADLIGHT_REACH) ** 2)
    result += 0.75 * (beam * (in_ego[:, 0] > 3.0))[:, None]
    result += lamps.at(points[:, :2])[:, None] * _LAMP_COLOR
    return np.minimum(result, 1.05)


def _degrade(image: np.ndarray, weather: Weather, rng: np.random.Generator) -> np.ndarray:
    """Add rain streaks and sensor noise, and quantise."""
    height, width = image.shape[:2]
    streaks = int(weather.rain_streaks * height * width / 1e6)
    if streaks:
        overlay = np.zeros((height, width), dtype=np.float32)
        starts = rng.uniform((0, 0), (width, height), (streaks, 2))
        length = height * rng.uniform(0.02, 0.06, streaks)
        ends = starts + np.stack([0.15 * length, length], axis=-1)
        for start, end in zip(starts.astype(int), ends.astype(int), strict=True):
            cv2.line(overlay, start.tolist(), end.tolist(), (0.3,), 1)
        image = image + overlay[..., None] * (215.0 - image)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(weather.image_noise)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)
