"""Shapes of the annotated objects: a few boxes each, inside the annotated box."""

from collections.abc import Callable

import numpy as np

from .boxes import SolidBoxes
from .materials import Material

# The solid is smaller than its annotation on every side but the ground, so that range noise
# does not throw surface points out of the box.
_MARGIN = 0.04
_MARGIN_SHARE = 0.06

Color = tuple[float, float, float]
# (x0, x1), (y0, y1), (z0, z1) as shares of the object's size: x and y in [-0.5, 0.5] with x
# forward and y left, z in [0, 1]; colour, second colour (BGR), material, reflectivity.
Part = tuple[
    tuple[float, float], tuple[float, float], tuple[float, float], Color, Color, Material, float
]

_BLACK: Color = (32, 30, 30)
_DARK: Color = (62, 60, 58)
_SKIN: Color = (130, 160, 205)
_WHITE: Color = (225, 225, 225)
_PAINTS: tuple[Color, ...] = (
    (215, 215, 215),
    (60, 58, 55),
    (150, 148, 145),
    (50, 45, 165),
    (140, 75, 45),
    (85, 110, 55),
    (110, 140, 165),
)
_BUS_PAINTS: tuple[Color, ...] = ((40, 40, 190), (165, 95, 30), (60, 135, 50), (60, 170, 215))
_CARGO_PAINTS: tuple[Color, ...] = ((220, 220, 220), (170, 110, 60), (70, 90, 160))
_CLOTHES: tuple[Color, ...] = (
    (170, 85, 50),
    (60, 60, 175),
    (75, 135, 70),
    (60, 55, 60),
    (180, 180, 190),
    (130, 70, 125),
)
_YELLOW: Color = (25, 175, 235)
_ORANGE: Color = (20, 95, 245)

_PAINT_REFLECTIVITY = 28.0
_TYRE_REFLECTIVITY = 4.0
_CLOTH_REFLECTIVITY = 14.0
_RETRO_REFLECTIVITY = 110.0
_BARRIER_REFLECTIVITY = 70.0
_BUS_REFLECTIVITY = 36.0
_CARGO_REFLECTIVITY = 20.0
_TARPAULIN_REFLECTIVITY = 52.0
_MACHINE_REFLECTIVITY = 15.0
_REFLECTIVITY_SPREAD = (0.85, 1.15)


def object_solid(
    name: str, size: tuple[float, float, float], variant: str, rng: np.random.Generator
) -> SolidBoxes:
    """Build the boxes of one object in its own frame, origin on the ground below its centre.

    Args:
        name: Key of :data:`cmt_bias.synthetic.object_catalog.OBJECT_KINDS`.
        size: Annotated (length, width, height) in metres; the solid stays inside.
        variant: nuScenes category and attribute; the words ``cycle.with_rider``,
            ``pedestrian.moving`` and ``construction_worker`` change the shape.
        rng: Draws the colours.

    Raises:
        KeyError: If no shape is known for ``name``.
    """
    solid = solid_from_parts(_SHAPES[name](variant, rng), size)
    solid.reflectivity = solid.reflectivity * rng.uniform(*_REFLECTIVITY_SPREAD)
    return solid


def solid_from_parts(parts: list[Part], size: tuple[float, float, float]) -> SolidBoxes:
    """Scale parts given as shares of the size to metres, keeping the margin to the box."""
    margins = np.minimum(_MARGIN, _MARGIN_SHARE * np.array(size))
    inner = np.array(size) - margins * (2, 2, 1)
    spans = np.array([part[:3] for part in parts], dtype=float) * inner[:, None]  # (N, 3, 2)
    return SolidBoxes(
        centers=spans.mean(axis=2),
        half_sizes=np.maximum((spans[..., 1] - spans[..., 0]) / 2, 1e-3),
        yaws=np.zeros(len(parts)),
        colors=np.array([part[3] for part in parts], dtype=float),
        accent_colors=np.array([part[4] for part in parts], dtype=float),
        materials=np.array([part[5] for part in parts]),
        reflectivity=np.array([part[6] for part in parts], dtype=float),
        owners=np.full(len(parts), -1),
    )


def _part(
    x: tuple[float, float],
    y: tuple[float, float],
    z: tuple[float, float],
    color: Color,
    *,
    accent: Color = _WHITE,
    material: Material = Material.PLAIN,
    reflectivity: float = _PAINT_REFLECTIVITY,
) -> Part:
    return x, y, z, color, accent, material, reflectivity


def _choose(colors: tuple[Color, ...], rng: np.random.Generator) -> Color:
    base = np.array(colors[rng.integers(len(colors))])
    b, g, r = np.clip(base * rng.uniform(0.85, 1.12), 0, 245)
    return float(b), float(g), float(r)


def _axle(x: float, radius: float, width: float, height: float) -> Part:
    return _part(
        (x - radius, x + radius),
        (-width / 2, width / 2),
        (0.0, height),
        _BLACK,
        reflectivity=_TYRE_REFLECTIVITY,
    )


def _car(variant: str, rng: np.random.Generator) -> list[Part]:
    paint = _choose(_PAINTS, rng)
    cabin_back = rng.uniform(-0.46, -0.3)
    return [
        _part((-0.47, 0.47), (-0.5, 0.5), (0.14, 0.56), paint),
        _part((cabin_back, 0.2), (-0.44, 0.44), (0.56, 1.0), paint, material=Material.GLAZED),
        _axle(-0.3, 0.07, 0.98, 0.3),
        _axle(0.31, 0.07, 0.98, 0.3),
        _part((0.47, 0.5), (-0.48, 0.48), (0.2, 0.48), paint, material=Material.HEADLIGHTS),
        _part((-0.5, -0.47), (-0.48, 0.48), (0.2, 0.54), paint, material=Material.TAILLIGHTS),
    ]


def _truck(variant: str, rng: np.random.Generator) -> list[Part]:
    paint, cargo = _choose(_PAINTS, rng), _choose(_CARGO_PAINTS, rng)
    return [
        _part((0.23, 0.48), (-0.46, 0.46), (0.18, 0.84), paint, material=Material.CAB),
        _part((-0.5, 0.19), (-0.5, 0.5), (0.32, 1.0), cargo, reflectivity=_CARGO_REFLECTIVITY),
        _part((-0.48, 0.48), (-0.3, 0.3), (0.16, 0.32), _DARK),
        _axle(-0.3, 0.08, 0.94, 0.34),
        _axle(0.34, 0.08, 0.94, 0.34),
        _part((0.48, 0.5), (-0.46, 0.46), (0.14, 0.3), _DARK, material=Material.HEADLIGHTS),
        _part((-0.5, -0.48), (-0.46, 0.46), (0.18, 0.3), _DARK, material=Material.TAILLIGHTS),
    ]


def _trailer(variant: str, rng: np.random.Generator) -> list[Part]:
    body, band = _choose(_CARGO_PAINTS[:1], rng), _choose(_BUS_PAINTS, rng)
    return [
        _part(
            (-0.5, 0.5),
            (-0.5, 0.5),
            (0.29, 1.0),
            body,
            accent=band,
            material=Material.LETTERING,
            reflectivity=_TARPAULIN_REFLECTIVITY,
        ),
        _part((-0.48, 0.4), (-0.25, 0.25), (0.18, 0.29), _DARK),
        _axle(-0.4, 0.045, 0.96, 0.27),
        _axle(-0.28, 0.045, 0.96, 0.27),
        _part((0.26, 0.29), (-0.35, 0.35), (0.0, 0.29), _DARK),
        _part((-0.5, -0.49), (-0.46, 0.46), (0.2, 0.29), _DARK, material=Material.TAILLIGHTS),
    ]


def _bus(variant: str, rng: np.random.Generator) -> list[Part]:
    paint = _choose(_BUS_PAINTS, rng)
    return [
        _part(
            (-0.49, 0.49),
            (-0.5, 0.5),
            (0.1, 1.0),
            paint,
            material=Material.WINDOW_BAND,
            reflectivity=_BUS_REFLECTIVITY,
        ),
        _axle(-0.28, 0.045, 0.96, 0.26),
        _axle(0.3, 0.045, 0.96, 0.26),
        _part((0.49, 0.5), (-0.48, 0.48), (0.14, 0.32), paint, material=Material.HEADLIGHTS),
        _part((-0.5, -0.49), (-0.48, 0.48), (0.2, 0.4), paint, material=Material.TAILLIGHTS),
    ]


def _construction_vehicle(variant: str, rng: np.random.Generator) -> list[Part]:
    paint = _choose((_YELLOW,), rng)
    tracks = [
        _part((-0.42, 0.22), side, (0.0, 0.28), _BLACK, reflectivity=_TYRE_REFLECTIVITY)
        for side in ((-0.5, -0.27), (0.27, 0.5))
    ]
    machine = [
        _part(x, y, z, paint, reflectivity=_MACHINE_REFLECTIVITY)
        for x, y, z in (
            ((-0.5, 0.1), (-0.45, 0.45), (0.28, 0.6)),  # engine
            ((0.02, 0.12), (0.12, 0.32), (0.6, 1.0)),  # foot of the arm
            ((0.12, 0.46), (0.14, 0.3), (0.88, 1.0)),  # boom
            ((0.38, 0.46), (0.15, 0.29), (0.28, 0.88)),  # stick
        )
    ]
    cab = _part((-0.08, 0.16), (-0.36, 0.08), (0.6, 0.96), paint, material=Material.GLAZED)
    bucket = _part((0.3, 0.5), (-0.1, 0.42), (0.02, 0.28), _DARK)
    return [*tracks, *machine, cab, bucket]


def _rider(seat: float, cloth: Color) -> list[Part]:
    return [
        _part(
            (-0.1, 0.16), (-0.3, 0.3), (seat - 0.2, seat), _DARK, reflectivity=_CLOTH_REFLECTIVITY
        ),
        _part((-0.2, 0.08), (-0.38, 0.38), (seat, 0.84), cloth, reflectivity=_CLOTH_REFLECTIVITY),
        _part((-0.09, 0.07), (-0.17, 0.17), (0.85, 1.0), _BLACK),
    ]


def _bicycle(variant: str, rng: np.random.Generator) -> list[Part]:
    ridden = 'cycle.with_rider' in variant
    top = 0.62 if ridden else 1.0
    wheels = [
        _part(x, (-0.07, 0.07), (0.0, 0.5 * top), _BLACK, reflectivity=_TYRE_REFLECTIVITY)
        for x in ((-0.5, -0.14), (0.14, 0.5))
    ]
    frame = [
        _part((-0.3, 0.3), (-0.06, 0.06), (0.35 * top, 0.68 * top), _choose(_BUS_PAINTS, rng)),
        _part((0.2, 0.27), (-0.5, 0.5), (0.86 * top, top), _DARK),
        _part((-0.26, -0.1), (-0.14, 0.14), (0.74 * top, 0.84 * top), _BLACK),
    ]
    return wheels + frame + (_rider(0.5, _choose(_CLOTHES, rng)) if ridden else [])


def _motorcycle(variant: str, rng: np.random.Generator) -> list[Part]:
    ridden = 'cycle.with_rider' in variant
    top = 0.72 if ridden else 1.0
    paint = _choose(_BUS_PAINTS, rng)
    wheels = [
        _part(x, (-0.14, 0.14), (0.0, 0.42 * top), _BLACK, reflectivity=_TYRE_REFLECTIVITY)
        for x in ((-0.5, -0.2), (0.2, 0.5))
    ]
    body = [
        _part((-0.42, 0.3), (-0.32, 0.32), (0.22 * top, 0.66 * top), paint),
        _part((-0.36, 0.05), (-0.22, 0.22), (0.66 * top, 0.76 * top), _BLACK),
        _part((0.2, 0.28), (-0.5, 0.5), (0.76 * top, 0.92 * top), _DARK),
        _part((0.28, 0.36), (-0.28, 0.28), (0.6 * top, top), paint),
    ]
    return wheels + body + (_rider(0.55, _choose(_CLOTHES, rng)) if ridden else [])


def _pedestrian(variant: str, rng: np.random.Generator) -> list[Part]:
    is_worker = 'construction_worker' in variant
    cloth = _ORANGE if is_worker else _choose(_CLOTHES, rng)
    reflectivity = _RETRO_REFLECTIVITY / 2 if is_worker else _CLOTH_REFLECTIVITY
    stride = 0.3 if 'pedestrian.moving' in variant else 0.0
    trousers = _choose(_CLOTHES, rng)
    legs = [
        _part(
            (shift - 0.2, shift + 0.2), side, (0.0, 0.47), trousers,
            reflectivity=_CLOTH_REFLECTIVITY,
        )
        for shift, side in ((stride, (0.04, 0.34)), (-stride, (-0.34, -0.04)))
    ]  # fmt: skip
    return [
        *legs,
        _part((-0.36, 0.36), (-0.5, 0.5), (0.46, 0.82), cloth, reflectivity=reflectivity),
        _part((-0.16, 0.16), (-0.16, 0.16), (0.84, 1.0), _SKIN),
    ]


def _traffic_cone(variant: str, rng: np.random.Generator) -> list[Part]:
    sleeves = [
        _part((-r, r), (-r, r), z, color, reflectivity=_RETRO_REFLECTIVITY)
        for r, z, color in (
            (0.36, (0.06, 0.42), _ORANGE),
            (0.28, (0.42, 0.66), _WHITE),
            (0.18, (0.66, 1.0), _ORANGE),
        )
    ]
    return [_part((-0.5, 0.5), (-0.5, 0.5), (0.0, 0.06), _ORANGE), *sleeves]


def _barrier(variant: str, rng: np.random.Generator) -> list[Part]:
    painted = rng.random() < 0.7
    color: Color = (205, 205, 215) if painted else (165, 170, 172)
    accent: Color = (30, 30, 205) if painted else (150, 155, 158)
    return [
        _part(
            (-width / 2, width / 2),
            (-0.5, 0.5),
            z,
            color,
            accent=accent,
            material=Material.STRIPES,
            reflectivity=_BARRIER_REFLECTIVITY,
        )
        for width, z in ((1.0, (0.0, 0.28)), (0.56, (0.28, 1.0)))
    ]


def _trash_bin(variant: str, rng: np.random.Generator) -> list[Part]:
    paint = _choose(((70, 95, 60), (95, 70, 60)), rng)
    return [
        _part((-0.4, 0.4), (-0.42, 0.42), (0.0, 0.88), paint),
        _part((-0.5, 0.5), (-0.5, 0.5), (0.88, 1.0), _DARK),
    ]


_SHAPES: dict[str, Callable[[str, np.random.Generator], list[Part]]] = {
    'car': _car,
    'truck': _truck,
    'trailer': _trailer,
    'bus': _bus,
    'construction_vehicle': _construction_vehicle,
    'bicycle': _bicycle,
    'motorcycle': _motorcycle,
    'pedestrian': _pedestrian,
    'traffic_cone': _traffic_cone,
    'barrier': _barrier,
    'pushable_pullable': _trash_bin,
}
