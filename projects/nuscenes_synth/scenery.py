"""Houses, trees and lamp posts along the street: not annotated, but in the way of the sensors."""

import numpy as np

from .boxes import SolidBoxes
from .catalog import Size
from .road import CROSSING_HALF_WIDTH, ROAD_HALF_WIDTH, Road
from .shapes import Color
from .textures import Texture

STREET_START = -75.0
STREET_END = 110.0

_FACADES: tuple[Color, ...] = (
    (135, 165, 190),
    (120, 130, 170),
    (170, 180, 185),
    (110, 140, 150),
    (150, 150, 140),
)
_WINDOW_DARK: Color = (75, 65, 58)
_TRUNK: Color = (45, 62, 80)
_POST: Color = (120, 118, 115)
_LAMP: Color = (190, 225, 250)
_LAMP_HEIGHT = 6.5


def build_scenery(road: Road, rng: np.random.Generator) -> SolidBoxes:
    """Line both sides of ``road`` with houses, trees and street lamps, as world boxes."""
    groups = []
    for side in (-1, 1):
        groups.extend(_houses(road, side, rng))
        groups.extend(_trees_and_lamps(road, side, rng))
    return SolidBoxes.concatenate(groups)


def street_lamps(scenery: SolidBoxes) -> np.ndarray:
    """Return the (N, 2) world x, y of the street lamps in ``scenery``."""
    return scenery.centers[scenery.textures == Texture.LAMP, :2]


def _houses(road: Road, side: int, rng: np.random.Generator) -> list[SolidBoxes]:
    houses = []
    s = STREET_START
    while s < STREET_END:
        width, depth = rng.uniform(9.0, 18.0), rng.uniform(8.0, 14.0)
        height = rng.uniform(5.0, 16.0)
        gap = rng.uniform(0.5, 7.0)
        middle = s + width / 2
        s += width + gap
        if _blocks_crossing(road, middle, width / 2 + 4.5):
            continue
        offset = side * (road.building_line(side) + rng.uniform(0.0, 2.5) + depth / 2)
        skin = (Texture.FACADE, _FACADES[rng.integers(len(_FACADES))], _WINDOW_DARK)
        house = _box(height / 2, (width, depth, height), skin, reflectivity=22.0)
        houses.append(_along_road(house, road, middle, offset))
    return houses


def _trees_and_lamps(road: Road, side: int, rng: np.random.Generator) -> list[SolidBoxes]:
    groups = []
    kerb = ROAD_HALF_WIDTH + road.side_parking_depth(side)
    for index, s in enumerate(np.arange(STREET_START + 3.0, STREET_END, 11.0)):
        s = float(s + rng.uniform(-2.0, 2.0))
        is_tree = (index + (side > 0)) % 2 == 0 and rng.random() < 0.8
        if _blocks_crossing(road, s, 5.0):
            continue
        solid = _tree(rng) if is_tree else _street_lamp()
        groups.append(_along_road(solid, road, s, side * (kerb + 0.45)))
    return groups


def _tree(rng: np.random.Generator) -> SolidBoxes:
    width, height = rng.uniform(1.8, 2.8), rng.uniform(4.5, 6.5)
    blue, green, red = rng.uniform(35, 60), rng.uniform(90, 125), 55.0
    leaves = (Texture.FOLIAGE, (blue, green, red), (blue * 0.6, green * 0.65, red * 0.6))
    trunk = _box(1.1, (0.3, 0.3, 2.2), (Texture.PLAIN, _TRUNK, _TRUNK), reflectivity=12.0)
    tall, wide = (width, width, height - 2.2), (width * 1.3, width * 0.7, (height - 2.2) * 0.6)
    crowns = [
        _box((2.2 + height) / 2, tall, leaves, 18.0, yaw=rng.uniform(0, np.pi)),
        _box((2.8 + height) / 2, wide, leaves, 18.0, yaw=rng.uniform(0, np.pi)),
    ]
    return SolidBoxes.concatenate([trunk, *crowns])


def _street_lamp() -> SolidBoxes:
    paint, light = (Texture.PLAIN, _POST, _POST), (Texture.LAMP, _LAMP, _LAMP)
    post = _box(_LAMP_HEIGHT / 2, (0.16, 0.16, _LAMP_HEIGHT), paint, reflectivity=30.0)
    lamp = _box(_LAMP_HEIGHT + 0.1, (0.35, 0.35, 0.2), light, reflectivity=20.0)
    return SolidBoxes.concatenate([post, lamp])


def _box(
    middle: float,
    size: Size,
    skin: tuple[Texture, Color, Color],
    reflectivity: float,
    yaw: float = 0.0,
) -> SolidBoxes:
    """One box around the origin, its centre ``middle`` metres above it."""
    texture, *colors = skin
    return SolidBoxes(
        centers=np.array([[0.0, 0.0, middle]]),
        half_sizes=np.array([size]) / 2,
        yaws=np.array([yaw]),
        textures=np.array([texture]),
        colors=np.array([colors], dtype=float),
        reflectivity=np.array([reflectivity]),
        owners=np.array([-1]),
    )


def _along_road(solid: SolidBoxes, road: Road, s: float, d: float) -> SolidBoxes:
    x, y, heading = road.to_world(s, d)
    return solid.placed(float(x), float(y), float(heading), owner=-1)


def _blocks_crossing(road: Road, s: float, half_length: float) -> bool:
    return (
        road.crossing_s is not None
        and abs(s - road.crossing_s) < CROSSING_HALF_WIDTH + half_length
    )
