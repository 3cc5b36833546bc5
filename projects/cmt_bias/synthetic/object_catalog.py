"""The annotated kinds of object: nuScenes names, sizes and attributes."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ObjectKind:
    """One kind of annotated object.

    Attributes:
        name: nuScenes detection class, or the last part of the category for other kinds.
        categories: nuScenes category names, one of which an object gets.
        mean_size: Typical (length, width, height) in metres.
        size_spread: Relative standard deviation of each size.
        count: Number of objects placed in a scene.
    """

    name: str
    categories: tuple[str, ...]
    mean_size: tuple[float, float, float]
    size_spread: float
    count: int

    def draw_size(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """Draw a (length, width, height) in metres, at most two spreads from the mean."""
        factors = 1.0 + self.size_spread * np.clip(rng.standard_normal(3), -2.0, 2.0)
        length, width, height = np.round(np.array(self.mean_size) * factors, 3)
        return float(length), float(width), float(height)


# Sizes are near the class means of the nuScenes train split. The counts give every class about
# the same number of annotations in front of the sensors; nuScenes itself has far more cars.
OBJECT_KINDS = {
    kind.name: kind
    for kind in (
        ObjectKind('bus', ('vehicle.bus.rigid',), (11.0, 2.9, 3.4), 0.03, 3),
        ObjectKind('trailer', ('vehicle.trailer',), (11.5, 2.8, 3.9), 0.03, 3),
        ObjectKind('truck', ('vehicle.truck',), (6.9, 2.5, 2.8), 0.03, 4),
        ObjectKind('construction_vehicle', ('vehicle.construction',), (6.4, 2.8, 3.2), 0.03, 3),
        ObjectKind('car', ('vehicle.car',), (4.6, 1.95, 1.72), 0.04, 8),
        ObjectKind('motorcycle', ('vehicle.motorcycle',), (2.1, 0.78, 1.45), 0.03, 5),
        ObjectKind('bicycle', ('vehicle.bicycle',), (1.7, 0.6, 1.3), 0.03, 5),
        ObjectKind('barrier', ('movable_object.barrier',), (0.5, 2.5, 1.0), 0.03, 7),
        ObjectKind('traffic_cone', ('movable_object.trafficcone',), (0.41, 0.41, 1.05), 0.03, 8),
        ObjectKind(
            'pedestrian',
            (
                'human.pedestrian.adult',
                'human.pedestrian.adult',
                'human.pedestrian.adult',
                'human.pedestrian.child',
                'human.pedestrian.construction_worker',
                'human.pedestrian.police_officer',
            ),
            (0.72, 0.68, 1.76),
            0.04,
            8,
        ),
        ObjectKind(
            'pushable_pullable', ('movable_object.pushable_pullable',), (0.7, 0.65, 1.1), 0.03, 2
        ),
    )
}

DETECTION_CLASSES = tuple(name for name in OBJECT_KINDS if name != 'pushable_pullable')

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
