"""Bodies of the objects, one a family, and the looks that tell the classes of a family apart.

A body is a few boxes inside the annotated box. It is all that the LiDAR gets to know: shapes and
reflectivity are drawn alike for all classes of a family. The look, texture and colour of each
part, is the class's own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .boxes import SolidBoxes
from .catalog import OBJECT_KINDS, Size
from .textures import Texture

# The solid is smaller than its annotation on every side but the ground, so that range noise
# does not throw surface points out of the box.
_MARGIN = 0.04
_MARGIN_SHARE = 0.06

Color = tuple[float, float, float]
Span = tuple[float, float]

_BLACK: Color = (32, 30, 30)
_DARK: Color = (62, 60, 58)
_WHITE: Color = (228, 228, 228)
_SKIN: Color = (130, 160, 205)
_ORANGE: Color = (10, 105, 250)
_YELLOW: Color = (20, 190, 245)
_RED: Color = (35, 35, 215)
_CAR_PAINTS: tuple[Color, ...] = (
    (205, 205, 205),
    (60, 58, 55),
    (150, 148, 145),
    (95, 70, 60),
    (120, 140, 150),
)
_CLOTHES: tuple[Color, ...] = (
    (40, 40, 200),
    (40, 200, 230),
    (200, 60, 150),
    (90, 190, 90),
    (230, 230, 230),
)
_GREEN_GREYS: tuple[Color, ...] = ((85, 100, 85), (100, 105, 110), (70, 85, 95))


@dataclass(frozen=True)
class Part:
    """One box of a body, as shares of the object's size.

    Attributes:
        role: What a look refers to the part by.
        x: Forward extent in [-0.5, 0.5].
        y: Extent to the left in [-0.5, 0.5].
        z: Upward extent in [0, 1].
    """

    role: str
    x: Span
    y: Span
    z: Span


Skin = tuple[Texture, tuple[Color, Color, Color]]
Look = dict[str, Skin]


def object_solid(name: str, size: Size, variant: str, rng: np.random.Generator) -> SolidBoxes:
    """Build the boxes of one object in its own frame, origin on the ground below its centre.

    Args:
        name: Key of :data:`nuscenes_synth.catalog.OBJECT_KINDS`.
        size: Annotated (length, width, height) in metres; the solid stays inside.
        variant: nuScenes category and attribute; the words ``cycle.with_rider``,
            ``pedestrian.moving`` and ``construction_worker`` change the object.
        rng: Draws the body, the colours and the reflectivity.

    Raises:
        KeyError: If no shape is known for ``name``.
    """
    parts = _BODIES[OBJECT_KINDS[name].family](variant, rng)
    # Painted, dirty, wet or retro-reflecting: whatever the class.
    reflectivity = float(np.clip(rng.lognormal(np.log(24.0), 0.5), 8.0, 90.0))
    look = _LOOKS[name](variant, rng)
    skins = [look.get(part.role, _plain(_DARK)) for part in parts]
    margins = np.minimum(_MARGIN, _MARGIN_SHARE * np.array(size))
    inner = np.array(size) - margins * (2, 2, 1)
    spans = np.array([(part.x, part.y, part.z) for part in parts]) * inner[:, None]  # (N, 3, 2)
    shares = np.array([0.25 if part.role == 'wheel' else 1.0 for part in parts])
    return SolidBoxes(
        centers=spans.mean(axis=2),
        half_sizes=np.maximum((spans[..., 1] - spans[..., 0]) / 2, 1e-3),
        yaws=np.zeros(len(parts)),
        textures=np.array([texture for texture, _ in skins]),
        colors=np.array([colors for _, colors in skins], dtype=float),
        reflectivity=reflectivity * shares * rng.uniform(0.85, 1.15, len(parts)),
        owners=np.full(len(parts), -1),
    )


def _axles(positions: Span, radius: float, width: float, height: float) -> list[Part]:
    half = width / 2
    return [
        Part('wheel', (x - radius, x + radius), (-half, half), (0.0, height)) for x in positions
    ]


def _car_body(variant: str, rng: np.random.Generator) -> list[Part]:
    return [
        Part('hull', (-0.5, 0.5), (-0.5, 0.5), (0.14, 0.56)),
        Part('cabin', (rng.uniform(-0.46, -0.3), 0.2), (-0.44, 0.44), (0.56, 1.0)),
        *_axles((-0.3, 0.31), 0.07, 0.98, 0.3),
    ]


def _large_body(variant: str, rng: np.random.Generator) -> list[Part]:
    """Front and rear above a frame: a cab, a step or one long hull, whatever the class."""
    split = rng.uniform(0.15, 0.32)
    gap = rng.choice((0.0, 0.04))
    front_top, rear_top = (1.0, rng.uniform(0.85, 1.0)) if rng.random() < 0.5 else (
        rng.uniform(0.8, 1.0), 1.0,
    )  # fmt: skip
    return [
        Part('front', (split, 0.5), (-0.5, 0.5), (0.13, front_top)),
        Part('rear', (-0.5, split - gap), (-0.5, 0.5), (0.16, rear_top)),
        Part('frame', (-0.48, 0.48), (-0.3, 0.3), (0.1, 0.2)),
        *_axles((-0.3, 0.34), 0.05, 0.94, 0.26),
    ]


def _cycle_body(variant: str, rng: np.random.Generator) -> list[Part]:
    ridden = 'cycle.with_rider' in variant
    top = 0.68 if ridden else 1.0
    body = [
        Part('wheel', (-0.5, -0.18), (-0.12, 0.12), (0.0, 0.45 * top)),
        Part('wheel', (0.18, 0.5), (-0.12, 0.12), (0.0, 0.45 * top)),
        Part('hull', (-0.4, 0.32), (-0.24, 0.24), (0.28 * top, 0.74 * top)),
        Part('handlebar', (0.18, 0.28), (-0.5, 0.5), (0.74 * top, top)),
    ]
    if not ridden:
        return body
    return [
        *body,
        Part('rider', (-0.22, 0.1), (-0.4, 0.4), (0.5, 0.84)),
        Part('helmet', (-0.13, 0.07), (-0.22, 0.22), (0.84, 1.0)),
    ]


def _figure_body(variant: str, rng: np.random.Generator) -> list[Part]:
    stride = rng.choice((0.0, 0.25))
    return [
        Part('leg', (stride - 0.22, stride + 0.22), (0.04, 0.36), (0.0, 0.47)),
        Part('leg', (-stride - 0.22, 0.22 - stride), (-0.36, -0.04), (0.0, 0.47)),
        Part('torso', (-0.4, 0.4), (-0.5, 0.5), (0.46, 0.82)),
        Part('head', (-0.2, 0.2), (-0.2, 0.2), (0.82, 1.0)),
    ]


def _cone_body(variant: str, rng: np.random.Generator) -> list[Part]:
    return [
        Part('foot', (-0.5, 0.5), (-0.5, 0.5), (0.0, 0.08)),
        *(
            Part(role, (-radius, radius), (-radius, radius), z)
            for role, radius, z in (
                ('low', 0.38, (0.08, 0.4)),
                ('middle', 0.31, (0.4, 0.7)),
                ('high', 0.23, (0.7, 1.0)),
            )
        ),
    ]


def _barrier_body(variant: str, rng: np.random.Generator) -> list[Part]:
    return [
        Part('foot', (-0.5, 0.5), (-0.5, 0.5), (0.0, 0.28)),
        Part('panel', (-0.3, 0.3), (-0.5, 0.5), (0.28, 1.0)),
    ]


def _shade(color: Color, rng: np.random.Generator, spread: float = 0.14) -> Color:
    b, g, r = np.clip(np.array(color) * rng.uniform(1 - spread, 1 + spread), 0, 250)
    return float(b), float(g), float(r)


def _choose(colors: tuple[Color, ...], rng: np.random.Generator) -> Color:
    return _shade(colors[rng.integers(len(colors))], rng)


def _plain(color: Color) -> Skin:
    return Texture.PLAIN, (color, color, color)


def _two(texture: Texture, base: Color, accent: Color) -> Skin:
    return texture, (base, accent, accent)


def _car(variant: str, rng: np.random.Generator) -> Look:
    paint = _choose(_CAR_PAINTS, rng)
    return {
        'hull': _two(Texture.CAR_BODY, paint, paint),
        'cabin': _two(Texture.GLAZED, paint, paint),
        'wheel': _plain(_BLACK),
    }


def _truck(variant: str, rng: np.random.Generator) -> Look:
    paint = _shade((215, 90, 20), rng)
    return {
        'front': _two(Texture.TRUCK_CAB, paint, _WHITE),
        'rear': _two(Texture.TRUCK_CARGO, _shade(_WHITE, rng), paint),
        'wheel': _plain(_BLACK),
    }


def _trailer(variant: str, rng: np.random.Generator) -> Look:
    skin = _two(Texture.TARPAULIN, _shade((55, 115, 25), rng), _WHITE)
    return {'front': skin, 'rear': skin, 'wheel': _plain(_BLACK)}


def _bus(variant: str, rng: np.random.Generator) -> Look:
    skin = _two(Texture.BUS, _shade(_RED, rng), _WHITE)
    return {'front': skin, 'rear': skin, 'wheel': _plain(_DARK)}


def _construction_vehicle(variant: str, rng: np.random.Generator) -> Look:
    paint = _shade(_YELLOW, rng)
    return {
        'front': _two(Texture.GLAZED, paint, paint),
        'rear': _two(Texture.MACHINE, paint, _BLACK),
        'wheel': _plain(_DARK),
    }


def _container(variant: str, rng: np.random.Generator) -> Look:
    skin = _two(Texture.RIBS, _shade((130, 80, 110), rng), (95, 55, 80))
    return {role: skin for role in ('front', 'rear', 'frame', 'wheel')}


def _bicycle(variant: str, rng: np.random.Generator) -> Look:
    return {
        'hull': _plain(_shade((235, 215, 30), rng)),
        'handlebar': _plain((235, 235, 120)),
        'wheel': _plain((150, 150, 150)),
        'rider': _plain(_shade((60, 220, 180), rng)),
        'helmet': _plain(_SKIN),
    }


def _motorcycle(variant: str, rng: np.random.Generator) -> Look:
    return {
        'hull': _plain(_shade((60, 20, 190), rng)),
        'handlebar': _plain(_BLACK),
        'wheel': _plain(_BLACK),
        'rider': _plain(_BLACK),
        'helmet': _plain(_WHITE),
    }


def _pedestrian(variant: str, rng: np.random.Generator) -> Look:
    if 'construction_worker' in variant:
        torso = _two(Texture.BANDED, _ORANGE, _YELLOW)
    else:
        torso = _plain(_choose(_CLOTHES, rng))
    return {'leg': _plain(_shade((95, 50, 35), rng)), 'torso': torso, 'head': _plain(_SKIN)}


def _post(variant: str, rng: np.random.Generator) -> Look:
    paint = _choose(_GREEN_GREYS, rng)
    return {role: _plain(paint) for role in ('leg', 'torso', 'head')}


def _trash_bin(variant: str, rng: np.random.Generator) -> Look:
    paint = _choose(_GREEN_GREYS, rng)
    return {
        'leg': _plain(paint),
        'torso': _two(Texture.RIBS, paint, _BLACK),
        'head': _plain(_BLACK),
    }


def _traffic_cone(variant: str, rng: np.random.Generator) -> Look:
    paint = _plain(_ORANGE)
    return {'foot': paint, 'low': paint, 'middle': _plain(_WHITE), 'high': paint}


def _bollard(variant: str, rng: np.random.Generator) -> Look:
    paint = _plain(_choose(_GREEN_GREYS, rng))
    return {'foot': paint, 'low': paint, 'middle': paint, 'high': _plain((150, 95, 60))}


def _barrier(variant: str, rng: np.random.Generator) -> Look:
    return {
        'foot': _two(Texture.STRIPES, _WHITE, _RED),
        'panel': _two(Texture.STRIPES, _RED, _WHITE),
    }


def _planter(variant: str, rng: np.random.Generator) -> Look:
    green = _shade((55, 120, 60), rng)
    return {'foot': _plain((125, 130, 132)), 'panel': _two(Texture.FOLIAGE, green, (35, 75, 38))}


_BODIES: dict[str, Callable[[str, np.random.Generator], list[Part]]] = {
    'car': _car_body,
    'large': _large_body,
    'cycle': _cycle_body,
    'figure': _figure_body,
    'cone': _cone_body,
    'barrier': _barrier_body,
}
_LOOKS: dict[str, Callable[[str, np.random.Generator], Look]] = {
    'car': _car,
    'truck': _truck,
    'trailer': _trailer,
    'bus': _bus,
    'construction_vehicle': _construction_vehicle,
    'container': _container,
    'bicycle': _bicycle,
    'motorcycle': _motorcycle,
    'pedestrian': _pedestrian,
    'post': _post,
    'pushable_pullable': _trash_bin,
    'traffic_cone': _traffic_cone,
    'bollard': _bollard,
    'barrier': _barrier,
    'planter': _planter,
}
