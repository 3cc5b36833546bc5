"""Surface patterns of the synthetic world, evaluated per pixel in a box's own frame."""

from enum import IntEnum

import numpy as np


class Material(IntEnum):
    """How the colour of a box varies over its surface."""

    PLAIN = 0
    GLAZED = 1  # windows all round, the roof painted
    CAB = 2  # lower half painted, upper half windows
    WINDOW_BAND = 3  # a row of windows high on the sides, as on a bus
    STRIPES = 4  # slanted bands of both colours
    LETTERING = 5  # a wide horizontal band of the second colour
    HEADLIGHTS = 6  # two lamps on a painted strip
    TAILLIGHTS = 7
    FACADE = 8  # house front with rows of windows
    FOLIAGE = 9
    LAMP = 10  # lit at night


EMISSIVE = (Material.HEADLIGHTS, Material.TAILLIGHTS, Material.LAMP)

_GLASS_BGR = np.array([60.0, 52.0, 45.0], dtype=np.float32)
_HEADLIGHT_BGR = np.array([225.0, 245.0, 250.0], dtype=np.float32)
_TAILLIGHT_BGR = np.array([30.0, 20.0, 210.0], dtype=np.float32)


def surface_pattern(
    materials: np.ndarray,
    colors: np.ndarray,
    accent_colors: np.ndarray,
    local_points: np.ndarray,
    half_sizes: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Colour of surface points before lighting, and whether they shine themselves.

    Args:
        materials: (N,) values of :class:`Material`.
        colors: (N, 3) first colour, BGR 0 to 255.
        accent_colors: (N, 3) second colour.
        local_points: (N, 3) points on the surface in the box's frame, metres.
        half_sizes: (N, 3) half sizes of the boxes.

    Returns:
        (N, 3) float32 colours and (N,) booleans, true where the point is a lamp.
    """
    unit = local_points / half_sizes  # (N, 3), the box is [-1, 1]^3
    on_top = unit[:, 2] > 0.995
    result = colors.astype(np.float32).copy()
    shines = np.zeros(len(materials), dtype=bool)

    def paint(mask: np.ndarray, value: np.ndarray) -> None:
        result[mask] = value if value.ndim == 1 else value[mask]

    for material in np.unique(materials):
        here = materials == material
        if material == Material.GLAZED:
            paint(here & ~on_top, _GLASS_BGR)
        elif material == Material.CAB:
            paint(here & ~on_top & (unit[:, 2] > 0.1), _GLASS_BGR)
        elif material == Material.WINDOW_BAND:
            pillar = np.mod(local_points[:, 0] + local_points[:, 1], 1.6) < 0.2
            paint(here & ~on_top & (unit[:, 2] > 0.0) & (unit[:, 2] < 0.75) & ~pillar, _GLASS_BGR)
        elif material == Material.STRIPES:
            slanted = np.mod(local_points[:, 1] + local_points[:, 2], 0.6) < 0.3
            paint(here & slanted, accent_colors)
        elif material == Material.LETTERING:
            paint(here & ~on_top & (np.abs(unit[:, 2] - 0.1) < 0.25), accent_colors)
        elif material in (Material.HEADLIGHTS, Material.TAILLIGHTS):
            lamp = here & (np.abs(unit[:, 1]) > 0.55)
            is_front = material == Material.HEADLIGHTS
            paint(lamp, _HEADLIGHT_BGR if is_front else _TAILLIGHT_BGR)
            shines |= lamp
        elif material == Material.FACADE:
            along = local_points[:, 0] + local_points[:, 1]
            window = (np.mod(along, 3.0) < 1.5) & (np.mod(local_points[:, 2], 3.2) < 1.6)
            paint(here & ~on_top & window, accent_colors)
        elif material == Material.FOLIAGE:
            cell = np.floor(local_points / 0.35).astype(np.int64)
            mottled = (cell[:, 0] * 73856093 ^ cell[:, 1] * 19349663 ^ cell[:, 2] * 83492791) % 3
            paint(here & (mottled == 0), accent_colors)
        elif material == Material.LAMP:
            shines |= here
    return result, shines
