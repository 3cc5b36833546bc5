"""A camera that renders the boxes and the ground of a scene, one ray per pixel."""

from functools import lru_cache

import cv2
import numpy as np

from .boxes import FACE_CORNERS, FACE_NORMALS, NUM_FACES
from .raycasting import TRIANGLES_PER_BOX, Hits, RayCaster, Rays
from .rig import CAMERAS, CameraCalibration
from .road import Ground, Road
from .textures import FIRST_LAMP, FIXED_BGR, NUM_COLORS, TEXELS, texture_atlas
from .weather import Weather

_NEAR_PLANE = 0.2
_SUN_DIRECTION = np.array([0.45, 0.3, 0.84])
# Sides facing away are darker under any sky, or a box would lose its edges.
_FACE_SHADES = np.array([0.9, 0.9, 0.8, 0.8, 1.0, 0.6])
_HEADLIGHT_REACH = 26.0
_HEADLIGHT_HALF_ANGLE = 0.5
_LAMP_REACH = 7.0
_LAMP_STEP = 0.5
_LAMP_BRIGHTNESS = 0.55
_LAMP_COLOR = np.array([0.62, 0.85, 1.0], dtype=np.float32)
_RAIN_BGR = 215.0
_NOISE_DEVIATION = float(np.sqrt(2 * (256**2 - 1) / 12))  # of the sum of two uniform bytes
_WET_ROAD = 0.75
_SELF_LIT = 2.0  # marks lamps, brighter than any daylight

_GROUND_BGR = np.zeros((len(Ground), 3), dtype=np.float32)
_GROUND_BGR[Ground.ASPHALT] = (98, 95, 92)
_GROUND_BGR[Ground.WHITE_MARKING] = (215, 215, 215)
_GROUND_BGR[Ground.YELLOW_MARKING] = (70, 175, 205)
_GROUND_BGR[Ground.PARKING] = (112, 108, 104)
_GROUND_BGR[Ground.SIDEWALK] = (152, 156, 160)
_GROUND_BGR[Ground.GRASS] = (66, 118, 88)


class Camera:
    """A camera mounted on the ego vehicle, with the rays of its pixels in the ego frame.

    Args:
        calibration: Mounting and optics.
        width: Image width in pixels.
        height: Image height in pixels.

    Attributes:
        shape: Height and width in pixels.
        rays: (H * W) rays through the pixel centres, 1 m deep each.
        ground: (2, H * W) float32 x, y where a ray meets the ground, 0 if it never does.
        elevation: (H * W) float32 how far up the sky a ray leads: 0 horizon, 1 overhead.
    """

    def __init__(self, calibration: CameraCalibration, width: int, height: int) -> None:
        self.shape = (height, width)
        self._intrinsics = calibration.intrinsics(width, height)
        self._ego_from_camera = calibration.ego_from_sensor()
        pixels = np.ones((height, width, 3))
        pixels[..., 0], pixels[..., 1] = np.meshgrid(
            np.arange(width) + 0.5, np.arange(height) + 0.5
        )
        directions = pixels.reshape(-1, 3) @ np.linalg.inv(self._intrinsics).T
        directions = directions @ self._ego_from_camera[:3, :3].T
        self.rays = Rays(self._ego_from_camera[:3, 3], directions)
        distance = np.where(np.isfinite(self.rays.to_ground), self.rays.to_ground, 0.0)
        self.ground = (self.rays.origin[:2, None] + distance * directions[:, :2].T).astype(
            np.float32
        )
        level = np.hypot(directions[:, 0], directions[:, 1])
        self.elevation = np.clip(directions[:, 2] / (0.6 * level), 0, 1).astype(np.float32)

    def sees(self, points: np.ndarray) -> np.ndarray:
        """Whether (N, 3) points in the ego frame project into the image, (N,) booleans."""
        in_camera = (points - self._ego_from_camera[:3, 3]) @ self._ego_from_camera[:3, :3]
        in_front = in_camera[:, 2] > _NEAR_PLANE
        u, v, depth = (in_camera @ self._intrinsics.T).T
        depth = np.where(in_front, depth, 1.0)
        height, width = self.shape
        return (
            in_front
            & (abs(u / depth - width / 2) < width / 2)
            & (abs(v / depth - height / 2) < height / 2)
        )


@lru_cache
def rig_cameras(width: int, height: int) -> tuple[Camera, ...]:
    """The cameras of :data:`nuscenes_synth.rig.CAMERAS` with images of one size."""
    return tuple(Camera(calibration, width, height) for calibration in CAMERAS)


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

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the (N,) brightness at world x, y, each (N,); 0 off the grid."""
        column = np.floor((x - self._start[0]) / _LAMP_STEP).astype(np.int32)
        row = np.floor((y - self._start[1]) / _LAMP_STEP).astype(np.int32)
        rows, columns = self._grid.shape
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        cell = np.where(inside, row * columns + column, 0)
        return np.where(inside, self._grid.ravel()[cell], np.float32(0))


class Renderer:
    """Renders what stands around the ego vehicle at one time.

    Args:
        caster: Ray caster with the solids in the ego frame.
        ego_pose: (3,) world x, y, yaw of the ego frame.
        road: Colours the ground.
        weather: Decides on light, haze, rain and noise.
        lamps: Street lamps, lit at night.
    """

    def __init__(
        self,
        caster: RayCaster,
        ego_pose: np.ndarray,
        road: Road,
        weather: Weather,
        lamps: LampLight,
    ) -> None:
        self._caster = caster
        self._ego_pose = ego_pose.astype(np.float32)
        self._road = road
        self._weather = weather
        self._lamps = lamps
        boxes = caster.boxes
        fixed = np.broadcast_to(FIXED_BGR, (len(boxes), *FIXED_BGR.shape))
        own = np.concatenate([boxes.colors, fixed], axis=1).reshape(-1, 3)
        self._first_ground = len(own)
        table = np.concatenate([own, _GROUND_BGR])
        self._colors = np.ascontiguousarray(table.T, dtype=np.float32)  # (3, colours)
        self._face_light = _face_light(boxes.yaws + ego_pose[2], weather).astype(np.float32)
        # Where the texels of a face begin in the atlas.
        faces = boxes.textures[:, None] * NUM_FACES + np.arange(NUM_FACES)
        self._first_texel = (faces * TEXELS**2).ravel().astype(np.int32)
        self._texels = texture_atlas().ravel()

    def render(self, camera: Camera, rng: np.random.Generator) -> tuple[np.ndarray, Hits]:
        """Render one image; ``rng`` is the source of noise.

        Returns:
            The (H, W, 3) uint8 BGR image, and (H * W) what the ray of each pixel meets.
        """
        hits = self._caster.cast(camera.rays)
        depth = hits.distance
        on_solid, in_sky = hits.triangle >= 0, np.isinf(depth)
        solid, ground = np.flatnonzero(on_solid), np.flatnonzero(~(on_solid | in_sky))
        color = np.zeros(depth.shape, dtype=np.int32)  # column of the colour table
        light = np.zeros(depth.shape, dtype=np.float32)
        color[ground], light[ground] = self._ground(*camera.ground[:, ground])
        color[solid], light[solid] = self._solids(hits, solid)
        # Planes of B, G and R, which numpy works on much faster than on pixels of three.
        image = self._colors.take(color, axis=1)
        image *= self._with_lamps(camera, depth, light) if self._weather.is_night else light
        horizon = np.array(self._weather.sky_horizon, dtype=np.float32)[:, None]
        zenith = np.array(self._weather.sky_zenith, dtype=np.float32)[:, None]
        image -= horizon
        image *= np.exp(depth * np.float32(-1.0 / self._weather.visibility))
        image += horizon + np.where(in_sky, camera.elevation, 0) * (zenith - horizon)
        image = cv2.merge(list(image.reshape(3, *camera.shape)))
        return _degrade(image, self._weather, rng), hits

    def _ground(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the colour table and daylight of ground points x, y in the ego frame."""
        x, y = self._to_world(x, y)
        cell_x, cell_y = (x * 6).astype(np.int32), (y * 6).astype(np.int32)
        grain = ((cell_x * 73856093) ^ (cell_y * 19349663)) & 15  # fixed in the world
        wetness = _WET_ROAD if self._weather.is_wet else 1.0
        light = (0.92 + 0.01 * grain.astype(np.float32)) * (self._weather.ambient * wetness)
        return self._first_ground + self._road.ground_at(x, y).astype(np.int32), light

    def _solids(self, hits: Hits, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the colour table and daylight of pixels that show boxes, each (N,)."""
        triangle = hits.triangle[pixels]
        face = triangle >> 1
        second = (triangle & 1).astype(np.float32)
        a, b = (
            np.minimum((np.abs(second - part) * np.float32(TEXELS)).astype(np.int32), TEXELS - 1)
            for part in hits.uv[pixels].T
        )
        color = self._texels[self._first_texel[face] + b * TEXELS + a]
        self_lit = np.float32(_SELF_LIT if self._weather.is_night else 1.0)
        light = np.where(color >= FIRST_LAMP, self_lit, self._face_light[face])
        return triangle // TRIANGLES_PER_BOX * NUM_COLORS + color, light

    def _with_lamps(self, camera: Camera, depth: np.ndarray, light: np.ndarray) -> np.ndarray:
        """Add headlights and street lamps to the light of night, (N,) -> (3, N) for B, G, R."""
        depth = np.where(np.isinf(depth), np.float32(0), depth)
        x = camera.rays.origin[0] + depth * camera.rays.directions[:, 0]
        y = camera.rays.origin[1] + depth * camera.rays.directions[:, 1]
        ahead = np.maximum(x - 3.0, 0.1)
        angle = np.arctan2(y, ahead) / _HEADLIGHT_HALF_ANGLE
        beam = np.exp(-np.square(np.square(angle))) / (1 + (ahead / _HEADLIGHT_REACH) ** 2)
        lit = light + 0.75 * beam * (x > 3.0)
        lamps = self._lamps.at(*self._to_world(x, y))
        lit = np.minimum(lit + lamps * _LAMP_COLOR[:, None], np.float32(1.05))
        return np.where(light == _SELF_LIT, np.float32(1), lit)

    def _to_world(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World x, y of float32 x, y in the ego frame."""
        ego_x, ego_y, yaw = self._ego_pose
        cos, sin = np.cos(yaw), np.sin(yaw)
        return ego_x + cos * x - sin * y, ego_y + sin * x + cos * y


def _face_light(yaws: np.ndarray, weather: Weather) -> np.ndarray:
    """Daylight on each face of boxes with (N,) world yaws, (N * faces,)."""
    cos, sin = np.cos(yaws)[:, None], np.sin(yaws)[:, None]
    x, y, z = FACE_NORMALS.T
    towards_sun = np.maximum(
        (cos * x - sin * y) * _SUN_DIRECTION[0]
        + (sin * x + cos * y) * _SUN_DIRECTION[1]
        + z * _SUN_DIRECTION[2],
        0.0,
    )
    light = 1.0 - weather.sun + weather.sun * (0.35 + 0.75 * towards_sun)
    return (weather.ambient * light * _FACE_SHADES).ravel()


def _degrade(image: np.ndarray, weather: Weather, rng: np.random.Generator) -> np.ndarray:
    """Add blur, rain streaks and sensor noise to float32 (H, W, 3), and quantise."""
    height, width = image.shape[:2]
    if weather.image_blur:
        image = cv2.GaussianBlur(image, (0, 0), weather.image_blur * width)
    streaks = int(weather.rain_streaks * height * width / 1e6)
    if streaks:
        overlay = np.zeros((height, width), dtype=np.float32)
        starts = rng.uniform((0, 0), (width, height), (streaks, 2))
        length = height * rng.uniform(0.02, 0.06, streaks)
        ends = starts + np.stack([0.15 * length, length], axis=-1)
        lines = np.stack([starts, ends], axis=1).astype(np.int32)
        cv2.polylines(overlay, list(lines), isClosed=False, color=(0.3,))
        image = image + overlay[..., None] * (_RAIN_BGR - image)
    # The sum of two uniform bytes is as good as a normal number here, and ten times as quick.
    noise = np.frombuffer(rng.bytes(2 * image.size), np.uint8).reshape(2, *image.shape)
    noise = noise[0].astype(np.float32) + noise[1]
    noise -= np.float32(255)
    noise *= np.float32(weather.image_noise / _NOISE_DEVIATION)
    return cv2.add(image, noise, dtype=cv2.CV_8U)  # rounds and saturates


def visible_shares(caster: RayCaster, cameras: tuple[Camera, ...], num_actors: int) -> np.ndarray:
    """Return the (num_actors,) unoccluded share of what the cameras could see of each actor.

    Points spread over the surface of an actor, weighted by area, stand for its pixels; one that
    another part of the same actor hides counts as seen.
    """
    boxes = caster.boxes
    parts = np.flatnonzero(boxes.owners >= 0)
    corners = boxes.corners()[parts][:, FACE_CORNERS[:-1]]  # (N, 5, 4, 3), the bottom left out
    points = (0.5 * (corners + corners.mean(axis=2, keepdims=True))).reshape(-1, 3)
    length, width, height = boxes.half_sizes[parts].T
    area = np.stack([width * height] * 2 + [length * height] * 2 + [length * width], axis=-1)
    area = np.repeat(area.ravel(), 4)
    owners = np.repeat(boxes.owners[parts], 4 * (NUM_FACES - 1))
    covered, seen = np.zeros(num_actors), np.zeros(num_actors)
    for camera in cameras:
        inside = camera.sees(points)
        origin = camera.rays.origin
        triangle = caster.cast(Rays(origin, points[inside] - origin)).triangle
        hit = (triangle >= 0) & (boxes.owners[triangle // TRIANGLES_PER_BOX] == owners[inside])
        covered += np.bincount(owners[inside], area[inside], minlength=num_actors)
        seen += np.bincount(owners[inside], area[inside] * hit, minlength=num_actors)
    return np.divide(seen, covered, out=np.zeros(num_actors), where=covered > 0)
