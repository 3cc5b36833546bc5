"""Houses, trees and lamp posts along the street: not annotated, but in the way of the sensors."""

import numpy as np

from .boxes import SolidBoxes
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
        house = _boxes(
            [((0, 0, height / 2), (width, depth, height))],
            _FACADES[rng.integers(len(_FACADES))],
            _WINDOW_DARK,
            Texture.FACADE,
            reflectivity=22.0,
        )
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
    green: Color = (float(rng.uniform(35, 60)), float(rng.uniform(90, 125)), 55.0)
    trunk = _boxes([((0, 0, 1.1), (0.3, 0.3, 2.2))], _TRUNK, _TRUNK, Texture.PLAIN, 12.0)
    crown = _boxes(
        [
            ((0, 0, (2.2 + height) / 2), (width, width, height - 2.2)),
            ((0, 0, (2.8 + height) / 2), (width * 1.3, width * 0.7, (height - 2.2) * 0.6)),
        ],
        green,
        (green[0] * 0.6, green[1] * 0.65, green[2] * 0.6),
        Texture.FOLIAGE,
        reflectivity=18.0,
    )
    crown.yaws = crown.yaws + rng.uniform(0, np.pi, len(crown))
    return SolidBoxes.concatenate([trunk, crown])


def _street_lamp() -> SolidBoxes:
    post = _boxes(
        [((0, 0, _LAMP_HEIGHT / 2), (0.16, 0.16, _LAMP_HEIGHT))],
        _POST,
        _POST,
        Texture.PLAIN,
        reflectivity=30.0,
    )
    lamp = _boxes(
        [((0, 0, _LAMP_HEIGHT + 0.1), (0.35, 0.35, 0.2))], _LAMP, _LAMP, Texture.LAMP, 20.0
    )
    return SolidBoxes.concatenate([post, lamp])


def _boxes(
    placements: list[tuple[tuple[float, float, float], tuple[float, float, float]]],
    color: Color,
    accent: Color,
    texture: Texture,
    reflectivity: float,
) -> SolidBoxes:
    """Boxes of one look from (centre, size) pairs in metres."""
    count = len(placements)
    return SolidBoxes(
        centers=np.array([center for center, _ in placements], dtype=float),
        half_sizes=np.array([size for _, size in placements], dtype=float) / 2,
        yaws=np.zeros(count),
        textures=np.full(count, texture),
        colors=np.tile(np.array([color, accent], dtype=float), (count, 1, 1)),
        reflectivity=np.full(count, reflectivity),
        owners=np.full(count, -1),
    )


def _along_road(solid: SolidBoxes, road: Road, s: float, d: float) -> SolidBoxes:
    x, y, heading = road.to_world(s, d)
    return solid.placed(float(x), float(y), float(heading), owner=-1)


def _blocks_crossing(road: Road, s: float, half_length: float) -> bool:
    return (
        road.crossing_s is not None
        and abs(s - road.crossing_s) < CROSSING_HALF_WIDTH + half_length
    )
