"""The kinds of object: nuScenes names, sizes and attributes.

What a LiDAR measures of an object, its size, body and reflectivity, is shared by the classes of
one family; only the look differs (:mod:`nuscenes_synth.shapes`).
"""

from dataclasses import dataclass

import numpy as np

Size = tuple[float, float, float]


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object.

    Attributes:
        name: nuScenes detection class, or another name for the other kinds.
        categories: nuScenes category names, one of which an object gets; none for objects that
            are not annotated.
        family: Kinds of one family have one body and stand at the same kinds of places.
        mean_size: Mean (length, width, height) in metres.
        spread: Relative standard deviation of length, width and height.
        count: Number of objects placed in a scene.
    """

    name: str
    categories: tuple[str, ...]
    family: str
    mean_size: Size
    spread: Size
    count: int

    def draw_size(self, rng: np.random.Generator) -> Size:
        """Draw a (length, width, height) in metres, at most two spreads from the mean."""
        factors = 1.0 + np.array(self.spread) * np.clip(rng.standard_normal(3), -2.0, 2.0)
        length, width, height = np.round(np.array(self.mean_size) * factors, 3)
        return float(length), float(width), float(height)


_ADULT = 'human.pedestrian.adult'
_LARGE = (0.25, 0.07, 0.15)
_CYCLE = (0.12, 0.15, 0.08)
_FIGURE = (0.18, 0.15, 0.11)
_CONE = (0.2, 0.2, 0.2)

# Means near those of the nuScenes train split, spreads such that the sizes of a family overlap
# as they do there. The counts give every class about the same number of annotations in front of
# the sensors; nuScenes itself has far more cars. Kinds without a category mislead the LiDAR.
OBJECT_KINDS = {
    kind.name: kind
    for kind in (
        ObjectKind('bus', ('vehicle.bus.rigid',), 'large', (10.0, 2.85, 3.35), _LARGE, 3),
        ObjectKind('trailer', ('vehicle.trailer',), 'large', (10.0, 2.8, 3.5), _LARGE, 3),
        ObjectKind('truck', ('vehicle.truck',), 'large', (7.6, 2.6, 3.0), _LARGE, 4),
        ObjectKind(
            'construction_vehicle', ('vehicle.construction',), 'large', (7.0, 2.8, 3.2), _LARGE, 3
        ),
        ObjectKind('container', (), 'large', (7.5, 2.7, 3.1), _LARGE, 1),
        ObjectKind('car', ('vehicle.car',), 'car', (4.6, 1.95, 1.72), (0.08, 0.05, 0.07), 8),
        ObjectKind('motorcycle', ('vehicle.motorcycle',), 'cycle', (2.0, 0.75, 1.42), _CYCLE, 5),
        ObjectKind('bicycle', ('vehicle.bicycle',), 'cycle', (1.8, 0.65, 1.34), _CYCLE, 5),
        ObjectKind(
            'barrier',
            ('movable_object.barrier',),
            'barrier',
            (0.5, 2.4, 1.0),
            (0.15, 0.15, 0.1),
            7,
        ),
        ObjectKind('planter', (), 'barrier', (0.5, 2.2, 0.95), (0.15, 0.15, 0.1), 4),
        ObjectKind(
            'traffic_cone', ('movable_object.trafficcone',), 'cone', (0.41, 0.41, 1.03), _CONE, 8
        ),
        ObjectKind('bollard', (), 'cone', (0.41, 0.41, 1.03), _CONE, 6),
        ObjectKind(
            'pedestrian',
            (
                *(_ADULT, _ADULT, _ADULT, 'human.pedestrian.child'),
                *('human.pedestrian.construction_worker', 'human.pedestrian.police_officer'),
            ),
            'figure',
            (0.72, 0.68, 1.72),
            _FIGURE,
            8,
        ),
        ObjectKind('post', (), 'figure', (0.7, 0.67, 1.65), _FIGURE, 5),
        ObjectKind(
            'pushable_pullable',
            ('movable_object.pushable_pullable',),
            'figure',
            (0.7, 0.67, 1.4),
            _FIGURE,
            2,
        ),
    )
}

DETECTION_CLASSES = tuple(
    kind.name
    for kind in OBJECT_KINDS.values()
    if kind.categories and kind.name != 'pushable_pullable'
)

# name: description, as the tables ``attribute`` and ``category`` hold them.
ATTRIBUTES = {
    'vehicle.moving': 'Vehicle is moving.',
    'vehicle.stopped': 'Vehicle stands, with a driver who intends to move.',
    'vehicle.parked': 'Vehicle is parked.',
    'cycle.with_rider': 'There is a rider on the bicycle or motorcycle.',
    'cycle.without_rider': 'There is no rider on the bicycle or motorcycle.',
    'pedestrian.moving': 'The human is moving.',
    'pedestrian.standing': 'The human is standing.',
    'pedestrian.sitting_lying_down': 'The human is sitting or lying down.',
}

# All 23 categories of nuScenes v1.0, in its order.
CATEGORIES = (
    'human.pedestrian.adult',
    'human.pedestrian.child',
    'human.pedestrian.wheelchair',
    'human.pedestrian.stroller',
    'human.pedestrian.personal_mobility',
    'human.pedestrian.police_officer',
    'human.pedestrian.construction_worker',
    'animal',
    'vehicle.car',
    'vehicle.motorcycle',
    'vehicle.bicycle',
    'vehicle.bus.bendy',
    'vehicle.bus.rigid',
    'vehicle.truck',
    'vehicle.construction',
    'vehicle.emergency.ambulance',
    'vehicle.emergency.police',
    'vehicle.trailer',
    'movable_object.barrier',
    'movable_object.trafficcone',
    'movable_object.pushable_pullable',
    'movable_object.debris',
    'static_object.bicycle_rack',
)
