from collections import Counter

import numpy as np
import pytest
from shapely import STRtree
from shapely.affinity import rotate, translate
from shapely.geometry import box as rectangle

from nuscenes_synth.catalog import DETECTION_CLASSES, OBJECT_KINDS
from nuscenes_synth.rig import EGO_CENTER_AHEAD_OF_ORIGIN, EGO_LENGTH, EGO_WIDTH
from nuscenes_synth.scene import build_scene

DURATION = 2.5


@pytest.fixture(scope='module', params=range(8))
def scene(request):
    return build_scene(np.random.default_rng(request.param), (120.0, 120.0), DURATION)


def footprint(x, y, yaw, length, width):
    shape = rectangle(-length / 2, -width / 2, length / 2, width / 2)
    return translate(rotate(shape, yaw, origin=(0, 0), use_radians=True), x, y)


def footprints(scene, time):
    """Actors, then the ego vehicle, then the scenery that reaches down to vehicle height."""
    shapes = [
        footprint(*pose, actor.size[0], actor.size[1])
        for actor, pose in zip(scene.actors, scene.actor_poses(time), strict=True)
    ]
    pose = scene.world_from_ego(time)
    center = pose[:2, 3] + EGO_CENTER_AHEAD_OF_ORIGIN * pose[:2, 0]
    heading = np.arctan2(pose[1, 0], pose[0, 0])
    shapes.append(footprint(*center, heading, EGO_LENGTH, EGO_WIDTH))
    scenery = scene.scenery
    low = scenery.centers[:, 2] - scenery.half_sizes[:, 2] < 2.0
    shapes.extend(
        footprint(*center[:2], yaw, *(2 * half_size[:2]))
        for center, yaw, half_size in zip(
            scenery.centers[low], scenery.yaws[low], scenery.half_sizes[low], strict=True
        )
    )
    return shapes


def test_nothing_ever_overlaps(scene):
    movable = len(scene.actors) + 1
    for time in np.arange(0, DURATION + 0.01, 0.25):
        shapes = footprints(scene, time)
        tree = STRtree(shapes)
        for index in range(movable):
            touching = tree.query(shapes[index], predicate='intersects')
            assert touching.tolist() == [index], (time, scene.actors[index - 1 : index + 1])


def test_every_class_is_there(scene):
    counts = Counter(actor.kind for actor in scene.actors)
    assert all(counts[name] >= 1 for name in DETECTION_CLASSES)
    assert sum(counts.values()) >= 0.9 * sum(kind.count for kind in OBJECT_KINDS.values())


def test_solids_lie_inside_their_annotated_boxes_and_stand_on_the_ground(scene):
    for actor in scene.actors:
        low = (actor.solid.centers - actor.solid.half_sizes).min(axis=0)
        high = (actor.solid.centers + actor.solid.half_sizes).max(axis=0)
        half_length, half_width = actor.size[0] / 2, actor.size[1] / 2
        assert (low >= [-half_length, -half_width, 0]).all(), actor.kind
        assert (high <= [half_length, half_width, actor.size[2]]).all(), actor.kind
        assert low[2] == 0, actor.kind
        # The box is tight, but for the margin for range noise; people are thinner than theirs.
        least_length = 0.6 if OBJECT_KINDS[actor.kind].family == 'figure' else 0.85
        assert high[0] - low[0] > least_length * actor.size[0], actor.kind
        assert high[1] - low[1] > 0.85 * actor.size[1], actor.kind
        assert high[2] > min(0.95 * actor.size[2], actor.size[2] - 0.045), actor.kind


def test_attributes_say_what_moves(scene):
    for actor in scene.actors:
        speed = np.hypot(actor.track.speed_s, actor.track.speed_d)
        moving = actor.attribute in (
            'vehicle.moving',
            'pedestrian.moving',
            'cycle.with_rider',
        )
        assert moving == (speed > 0.5), actor


def test_moving_objects_look_where_they_go(scene):
    for actor, start, end in zip(
        scene.actors, scene.actor_poses(0.0), scene.actor_poses(0.1), strict=True
    ):
        step = end[:2] - start[:2]
        if np.linalg.norm(step) > 0.05:
            heading = [np.cos(start[2]), np.sin(start[2])]
            assert step @ heading / np.linalg.norm(step) > 0.97, actor


def test_trailers_and_containers_never_move(scene):
    for actor in scene.actors:
        if actor.kind in ('trailer', 'container'):
            assert actor.track.speed_s == actor.track.speed_d == 0


def test_pedestrians_that_stand_are_on_a_sidewalk(scene):
    for actor in scene.actors:
        if actor.attribute == 'pedestrian.standing':
            side = int(np.sign(actor.track.d))
            kerb = 7.0 + scene.road.side_parking_depth(side)
            assert kerb < abs(actor.track.d) < kerb + 4.0
