"""Bodies of the objects, one a family, and the looks that tell the classes of a family apart.

A body is a few boxes inside the annotated box. It is all that the LiDAR gets to know: shapes and
reflectivity are drawn alike for all classes of a family. The look, texture and colours of each
part, is the class's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .boxes import SolidBoxes
from .catalog import OBJECT_KINDS, Size
from .textures import Texture

# The solid is smaller than its annotation on every side but the ground, so that range noise
# does not throw surface points out of the box.
_MARGIN = 0.04
_MARGIN_SHARE = 0.06
_TYRE_SHARE = 0.25  # of the body's reflectivity

Color = tuple[float, float, float]
Span = tuple[float, float]
Skin = tuple[Texture, Color | int, Color | int] | Color | int


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


@dataclass(frozen=True)
class Look:
    """Colours of one kind of object, BGR.

    Attributes:
        paints: For each paint of an object the colours, one of which it gets in some shade.
        skins: By the parts' roles a texture and its two colours, or one colour alone; a number
            stands for a paint. Parts of other roles are dark.
    """

    paints: tuple[tuple[Color, ...], ...]
    skins: dict[str, Skin]


def object_solid(name: str, size: Size, variant: str, rng: np.random.Generator) -> SolidBoxes:
    """Build the boxes of one object in its own frame, origin on the ground below its centre.

    Args:
        name: Key of :data:`nuscenes_synth.catalog.OBJECT_KINDS`.
        size: Annotated (length, width, height) in metres; the solid stays inside.
        variant: nuScenes category and attribute; the words ``cycle.with_rider`` and
            ``construction_worker`` change the object.
        rng: Draws the body, the colours and the reflectivity.

    Raises:
        KeyError: If no shape is known for ``name``.
    """
    parts = _BODIES[OBJECT_KINDS[name].family](variant, rng)
    # Painted, dirty, wet or retro-reflecting: whatever the class.
    reflectivity = float(np.clip(rng.lognormal(np.log(24.0), 0.5), 8.0, 90.0))
    look = LOOKS['construction_worker' if 'construction_worker' in variant else name]
    paints = [
        np.clip(np.array(colors[rng.integers(len(colors))]) * rng.uniform(0.86, 1.14), 0, 250)
        for colors in look.paints
    ]
    textures, colors = [], []
    for part in parts:
        skin: Any = look.skins.get(part.role, _DARK)
        is_textured = isinstance(skin, tuple) and isinstance(skin[0], Texture)
        texture, *slots = skin if is_textured else (Texture.PLAIN, skin, skin)
        textures.append(texture)
        colors.append([paints[slot] if isinstance(slot, int) else slot for slot in slots])
    margins = np.minimum(_MARGIN, _MARGIN_SHARE * np.array(size))
    inner = np.array(size) - margins * (2, 2, 1)
    spans = np.array([(part.x, part.y, part.z) for part in parts]) * inner[:, None]  # (N, 3, 2)
    shares = np.array([_TYRE_SHARE if part.role == 'wheel' else 1.0 for part in parts])
    return SolidBoxes(
        centers=spans.mean(axis=2),
        half_sizes=np.maximum((spans[..., 1] - spans[..., 0]) / 2, 1e-3),
        yaws=np.zeros(len(parts)),
        textures=np.array(textures),
        colors=np.array(colors, dtype=float),
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
    split, gap = rng.uniform(0.15, 0.32), rng.choice((0.0, 0.04))
    front_top = rear_top = 1.0
    if rng.random() < 0.5:
        rear_top = rng.uniform(0.85, 1.0)
    else:
        front_top = rng.uniform(0.8, 1.0)
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
    rider = [
        Part('rider', (-0.22, 0.1), (-0.4, 0.4), (0.5, 0.84)),
        Part('helmet', (-0.13, 0.07), (-0.22, 0.22), (0.84, 1.0)),
    ]
    return body + rider if ridden else body


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
        Part('low', (-0.38, 0.38), (-0.38, 0.38), (0.08, 0.4)),
        Part('middle', (-0.31, 0.31), (-0.31, 0.31), (0.4, 0.7)),
        Part('high', (-0.23, 0.23), (-0.23, 0.23), (0.7, 1.0)),
    ]


def _barrier_body(variant: str, rng: np.random.Generator) -> list[Part]:
    return [
        Part('foot', (-0.5, 0.5), (-0.5, 0.5), (0.0, 0.28)),
        Part('panel', (-0.3, 0.3), (-0.5, 0.5), (0.28, 1.0)),
    ]


_BODIES: dict[str, Callable[[str, np.random.Generator], list[Part]]] = {
    'car': _car_body,
    'large': _large_body,
    'cycle': _cycle_body,
    'figure': _figure_body,
    'cone': _cone_body,
    'barrier': _barrier_body,
}

_BLACK: Color = (32, 30, 30)
_DARK: Color = (62, 60, 58)
_WHITE: Color = (228, 228, 228)
_SKIN: Color = (130, 160, 205)
_ORANGE: Color = (10, 105, 250)
_YELLOW: Color = (20, 190, 245)
_RED: Color = (35, 35, 215)
_GREYS: tuple[Color, ...] = ((85, 100, 85), (100, 105, 110), (70, 85, 95))
_CARS: tuple[Color, ...] = (
    *((205, 205, 205), (60, 58, 55), (150, 148, 145)),
    *((95, 70, 60), (120, 140, 150)),
)
_CLOTHES: tuple[Color, ...] = (
    *((40, 40, 200), (40, 200, 230), (200, 60, 150)),
    *((90, 190, 90), (230, 230, 230)),
)
_TROUSERS: Color = (95, 50, 35)


# Bold enough to be told from each other at a few pixels, and shared by no two of a family.
LOOKS = {
    'car': Look(
        (_CARS,),
        dict(hull=(Texture.CAR_BODY, 0, 0), cabin=(Texture.GLAZED, 0, 0), wheel=_BLACK),
    ),
    'truck': Look(
        (((215, 90, 20),), (_WHITE,)),
        dict(front=(Texture.TRUCK_CAB, 0, _WHITE), rear=(Texture.TRUCK_CARGO, 1, 0), wheel=_BLACK),
    ),
    'trailer': Look(
        (((55, 115, 25),),),
        dict(
            front=(Texture.TARPAULIN, 0, _WHITE), rear=(Texture.TARPAULIN, 0, _WHITE), wheel=_BLACK
        ),
    ),
    'bus': Look(((_RED,),), dict(front=(Texture.BUS, 0, _WHITE), rear=(Texture.BUS, 0, _WHITE))),
    'construction_vehicle': Look(
        ((_YELLOW,),), dict(front=(Texture.GLAZED, 0, 0), rear=(Texture.MACHINE, 0, _BLACK))
    ),
    'container': Look(
        (((130, 80, 110),),),
        dict.fromkeys(('front', 'rear', 'frame', 'wheel'), (Texture.RIBS, 0, (95, 55, 80))),
    ),
    'bicycle': Look(
        (((235, 215, 30),), ((60, 220, 180),)),
        dict(hull=0, handlebar=(235, 235, 120), wheel=(150, 150, 150), rider=1, helmet=_SKIN),
    ),
    'motorcycle': Look(
        (((60, 20, 190),),),
        dict(hull=0, handlebar=_BLACK, wheel=_BLACK, rider=_BLACK, helmet=_WHITE),
    ),
    'pedestrian': Look((_CLOTHES, (_TROUSERS,)), dict(torso=0, leg=1, head=_SKIN)),
    'construction_worker': Look(
        ((_TROUSERS,),), dict(torso=(Texture.BANDED, _ORANGE, _YELLOW), leg=0, head=_SKIN)
    ),
    'post': Look((_GREYS,), dict(leg=0, torso=0, head=0)),
    'pushable_pullable': Look(
        (_GREYS,), dict(torso=(Texture.RIBS, 0, _BLACK), leg=0, head=_BLACK)
    ),
    'traffic_cone': Look((), dict(foot=_ORANGE, low=_ORANGE, middle=_WHITE, high=_ORANGE)),
    'bollard': Look((_GREYS,), dict(foot=0, low=0, middle=0, high=(150, 95, 60))),
    'barrier': Look(
        (), dict(foot=(Texture.STRIPES, _WHITE, _RED), panel=(Texture.STRIPES, _RED, _WHITE))
    ),
    'planter': Look(
        (((55, 120, 60),),),
        dict(foot=(125, 130, 132), panel=(Texture.FOLIAGE, 0, (35, 75, 38))),
    ),
}
