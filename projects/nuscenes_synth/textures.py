"""What the cameras see on the faces of a box: patterns in a small atlas, painted once.

A texel holds an index into the colours of its box: the two that the box brings with it, then
those of :data:`FIXED_BGR`, the last of which are lamps and shine by themselves.
"""

from enum import IntEnum
from functools import lru_cache

import numpy as np

from .boxes import NUM_FACES

TEXELS = 32  # along either side of a face

BASE, ACCENT, GLASS, HEADLIGHT, TAILLIGHT, LAMP = range(6)
FIRST_LAMP = HEADLIGHT
FIXED_BGR = np.array(
    [
        (60, 52, 45),  # glass
        (225, 245, 250),  # headlight
        (30, 20, 215),  # taillight
        (190, 225, 250),  # street lamp
    ],
    dtype=np.float32,
)
NUM_COLORS = 2 + len(FIXED_BGR)

_FRONT, _BACK, _LEFT, _RIGHT, _TOP, _BOTTOM = range(NUM_FACES)
_SIDES = [_FRONT, _BACK, _LEFT, _RIGHT]
_LONG_SIDES = [_LEFT, _RIGHT]


class Texture(IntEnum):
    """Patterns by name; the box's own colours are base and accent."""

    PLAIN = 0
    CAR_BODY = 1  # lamps at both ends
    GLAZED = 2  # windows all round, the roof painted
    TRUCK_CAB = 3  # windscreen, lamps, an accent stripe
    TRUCK_CARGO = 4  # base with a frame of the accent
    TARPAULIN = 5  # wide lettering in the accent, red lamps behind
    BUS = 6  # row of windows, accent roof, lamps
    MACHINE = 7  # wide slanted bands of base and accent
    STRIPES = 8  # upright bands of base and accent
    BANDED = 9  # accent band round the middle
    RIBS = 10  # narrow upright ribs
    FACADE = 11  # house front with rows of windows
    FOLIAGE = 12
    LAMP = 13  # lit at night


@lru_cache(maxsize=1)
def texture_atlas() -> np.ndarray:
    """Return (textures, faces, b, a) uint8 colour indices, a and b as in ``FACE_CORNERS``."""
    atlas = np.full((len(Texture), NUM_FACES, TEXELS, TEXELS), BASE, dtype=np.uint8)
    b, a = (np.mgrid[:TEXELS, :TEXELS] + 0.5) / TEXELS

    def paint(texture: Texture, faces: list[int], color: int, where: np.ndarray) -> None:
        for face in faces:
            atlas[texture, face][where] = color

    ends = np.abs(a - 0.5) > 0.24  # left and right end of a face
    low = (b > 0.08) & (b < 0.3)
    for texture in (Texture.CAR_BODY, Texture.TRUCK_CAB, Texture.BUS):
        lamps = ends & (low if texture != Texture.CAR_BODY else (b > 0.3) & (b < 0.8))
        paint(texture, [_FRONT], HEADLIGHT, lamps)
        paint(texture, [_BACK], TAILLIGHT, lamps)
    for texture in (Texture.TRUCK_CARGO, Texture.TARPAULIN):
        paint(texture, [_BACK], TAILLIGHT, ends & (b < 0.12))

    paint(Texture.GLAZED, _SIDES, GLASS, (b > 0.08) & (b < 0.85) & (np.abs(a - 0.5) < 0.46))
    paint(Texture.TRUCK_CAB, [_FRONT, *_LONG_SIDES], GLASS, (b > 0.5) & (b < 0.86))
    paint(Texture.TRUCK_CAB, _SIDES, ACCENT, (b > 0.34) & (b < 0.44))
    frame = (np.abs(a - 0.5) > 0.44) | (np.abs(b - 0.5) > 0.36)
    paint(Texture.TRUCK_CARGO, _SIDES, ACCENT, frame & (b > 0.12))
    paint(Texture.TARPAULIN, _SIDES, ACCENT, (np.abs(b - 0.55) < 0.17) & (np.abs(a - 0.5) < 0.4))
    windows = (b > 0.42) & (b < 0.78) & (np.mod(a * 6, 1.0) < 0.82)
    paint(Texture.BUS, _SIDES, GLASS, windows)
    paint(Texture.BUS, [_TOP], ACCENT, np.ones_like(windows))
    paint(Texture.BUS, _SIDES, ACCENT, b > 0.86)
    slanted = np.mod((a + b) * 2.5, 1.0) < 0.45
    paint(Texture.MACHINE, [*_SIDES, _TOP], ACCENT, slanted)
    paint(Texture.STRIPES, [*_SIDES, _TOP], ACCENT, np.mod(a * 3, 1.0) < 0.5)
    paint(Texture.BANDED, _SIDES, ACCENT, np.abs(b - 0.5) < 0.22)
    paint(Texture.RIBS, [*_SIDES, _TOP], ACCENT, np.mod(a * 8, 1.0) < 0.5)
    grid = (np.mod(a * 5, 1.0) < 0.5) & (np.mod(b * 4, 1.0) < 0.5)
    paint(Texture.FACADE, _SIDES, ACCENT, grid)
    mottled = np.random.default_rng(0).random((8, 8)).repeat(4, axis=0).repeat(4, axis=1) < 0.35
    paint(Texture.FOLIAGE, [*_SIDES, _TOP, _BOTTOM], ACCENT, mottled)
    paint(Texture.LAMP, list(range(NUM_FACES)), LAMP, np.ones_like(windows))
    return atlas
