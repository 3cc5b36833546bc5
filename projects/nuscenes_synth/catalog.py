"""The kinds of object: nuScenes names, sizes and attributes.

What a LiDAR measures of an object, its size, body and reflectivity, is shared by the classes of
one family; only the look differs (:mod:`nuscenes_synth.shapes`).
"""

from dataclasses import dataclass

import numpy as np

Size = tuple[float, float, float]

# Relative standard deviation of length, width and height in each family.
SIZE_SPREADS = {
    'large': (0.25, 0.07, 0.15),
    'car': (0.08, 0.05, 0.07),
    'cycle': (0.12, 0.15, 0.08),
    'barrier': (0.15, 0.15, 0.1),
    'cone': (0.2, 0.2, 0.2),
    'figure': (0.18, 0.15, 0.11),
}


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object.

    Attributes:
        name: nuScenes detection class, or another name for the other kinds.
        family: Kinds of one family have one body and stand at the same kinds of places.
        mean_size: Mean (length, width, height) in metres.
        count: Number of objects placed in a scene.
        categories: nuScenes category names, one of which an object gets; none for objects that
            are not annotated.
    """

    name: str
    family: str
    mean_size: Size
    count: int
    categories: tuple[str, ...] = ()

    def draw_size(self, rng: np.random.Generator) -> Size:
        """Draw a (length, width, height) in metres, at most two spreads from the mean."""
        spread = np.array(SIZE_SPREADS[self.family])
        factors = 1.0 + spread * np.clip(rng.standard_normal(3), -2.0, 2.0)
        length, width, height = np.round(np.array(self.mean_size) * factors, 3)
        return float(length), float(width), float(height)


_PEOPLE = (
    *('human.pedestrian.adult', 'human.pedestrian.adult', 'human.pedestrian.adult'),
    'human.pedestrian.child',
    'human.pedestrian.construction_worker',
    'human.pedestrian.police_officer',
)
_BIN = 'movable_object.pushable_pullable'

# Means near those of the nuScenes train split, spreads such that the sizes of a family overlap
# as they do there. The counts give every class about the same number of annotations in front of
# the sensors; nuScenes itself has far more cars. Kinds without a category mislead the LiDAR.
OBJECT_KINDS = {
    kind.name: kind
    for kind in (
        ObjectKind('bus', 'large', (10.0, 2.85, 3.35), 3, ('vehicle.bus.rigid',)),
        ObjectKind('trailer', 'large', (10.0, 2.8, 3.5), 3, ('vehicle.trailer',)),
        ObjectKind('truck', 'large', (7.6, 2.6, 3.0), 4, ('vehicle.truck',)),
        ObjectKind('construction_vehicle', 'large', (7.0, 2.8, 3.2), 3, ('vehicle.construction',)),
        ObjectKind('container', 'large', (7.5, 2.7, 3.1), 1),
        ObjectKind('car', 'car', (4.6, 1.95, 1.72), 8, ('vehicle.car',)),
        ObjectKind('motorcycle', 'cycle', (2.0, 0.75, 1.42), 5, ('vehicle.motorcycle',)),
        ObjectKind('bicycle', 'cycle', (1.8, 0.65, 1.34), 5, ('vehicle.bicycle',)),
        ObjectKind('barrier', 'barrier', (0.5, 2.4, 1.0), 7, ('movable_object.barrier',)),
        ObjectKind('planter', 'barrier', (0.5, 2.2, 0.95), 4),
        ObjectKind('traffic_cone', 'cone', (0.41, 0.41, 1.03), 8, ('movable_object.trafficcone',)),
        ObjectKind('bollard', 'cone', (0.41, 0.41, 1.03), 6),
        ObjectKind('pedestrian', 'figure', (0.72, 0.68, 1.72), 8, _PEOPLE),
        ObjectKind('post', 'figure', (0.7, 0.67, 1.65), 5),
        ObjectKind('pushable_pullable', 'figure', (0.7, 0.67, 1.4), 2, (_BIN,)),
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
