import dataclasses

import numpy as np
import pytest
from nuscenes.utils.geometry_utils import view_points

from nuscenes_synth.camera import Camera, LampLight, Renderer, visible_shares
from nuscenes_synth.raycasting import TRIANGLES_PER_BOX, RayCaster
from nuscenes_synth.rig import CAMERAS
from nuscenes_synth.road import Road
from nuscenes_synth.scene import build_scene
from nuscenes_synth.scenery import street_lamps
from nuscenes_synth.textures import Texture
from nuscenes_synth.weather import WEATHERS

WIDTH, HEIGHT = 320, 180
ROAD = Road((0.0, 0.0), 0.0, 0.0, (2.4, 2.4), None)
FRONT = next(camera for camera in CAMERAS if camera.channel == 'CAM_FRONT')
CAMERA = Camera(FRONT, WIDTH, HEIGHT)
NO_LAMPS = LampLight(np.array([[1000.0, 1000.0]]))


def view(solids, weather='day'):
    """What the front camera of a vehicle at the world's origin sees, heading along x."""
    renderer = Renderer(RayCaster(solids), np.zeros(3), ROAD, WEATHERS[weather], NO_LAMPS)
    return renderer.render(CAMERA, np.random.default_rng(0))


def owners(result):
    """(H, W) number of the box that a pixel shows, -1 for none."""
    _, hits = result
    triangle = hits.triangle.reshape(HEIGHT, WIDTH)
    return np.where(triangle >= 0, triangle // TRIANGLES_PER_BOX, -1)


def project(points):
    """Points in the ego frame to pixels with the devkit, (N, 2)."""
    ego_from_camera = FRONT.ego_from_sensor()
    in_camera = (points - ego_from_camera[:3, 3]) @ ego_from_camera[:3, :3]
    return view_points(in_camera.T, FRONT.intrinsics(WIDTH, HEIGHT), normalize=True)[:2].T


def test_object_is_drawn_exactly_where_its_corners_project(boxes):
    solids = boxes(((15.0, 2.0, 1.0), (4.0, 2.0, 2.0)))
    rows, columns = np.nonzero(owners(view(solids)) == 0)
    pixels = project(solids.corners()[0])
    drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    expected = [*pixels.min(axis=0), *pixels.max(axis=0)]
    np.testing.assert_allclose(drawn, expected, atol=1.0)


def test_object_changes_the_colour_at_its_projected_centre(boxes):
    solids = boxes(((15.0, 2.0, 1.0), (4.0, 2.0, 2.0)))
    column, row = project(solids.centers)[0].astype(int)
    with_object = view(solids)[0][row, column].astype(int)
    without = view(boxes())[0][row, column].astype(int)
    assert np.abs(with_object - without).max() > 40


def test_depth_is_that_of_the_front_face(boxes):
    result = view(boxes(((15.0, 0.0, 1.0), (4.0, 2.0, 2.0))))
    depth = result[1].distance.reshape(HEIGHT, WIDTH)[owners(result) == 0]
    np.testing.assert_allclose(depth.min(), 13.0 - FRONT.translation[0], atol=0.1)


def test_nearer_object_hides_the_farther_one_whatever_their_order(boxes):
    near, far = ((12.0, 0.0, 1.5), (1.0, 6.0, 3.0)), ((20.0, 0.0, 1.0), (4.0, 2.0, 2.0))
    for solids, hidden in ((boxes(near, far), 1), (boxes(far, near), 0)):
        assert not (owners(view(solids)) == hidden).any()
        shares = visible_shares(RayCaster(solids), (CAMERA,), 2)
        assert shares[hidden] == 0 and shares[1 - hidden] == 1


def test_half_hidden_object_is_half_visible(boxes):
    thing = ((20.0, 0.0, 1.5), (0.2, 4.0, 3.0))
    hides_left_half = ((19.0, 2.0, 3.0), (0.2, 4.0, 6.0))
    shares = visible_shares(RayCaster(boxes(thing, hides_left_half)), (CAMERA,), 2)
    np.testing.assert_allclose(shares, [0.5, 1.0], atol=0.05)


def test_object_behind_the_camera_is_not_drawn(boxes):
    solids = boxes(((-15.0, 0.0, 1.0), (4.0, 2.0, 2.0)))
    assert (owners(view(solids)) == -1).all()
    assert visible_shares(RayCaster(solids), (CAMERA,), 1).tolist() == [0]


def test_object_that_reaches_behind_the_camera_is_drawn_up_to_the_edge(boxes):
    """A long wall at the left, from behind the camera to far ahead."""
    shown = owners(view(boxes(((10.0, 3.0, 1.5), (40.0, 0.5, 3.0)))))
    assert (shown[HEIGHT // 2 :, 0] == 0).any()
    assert np.count_nonzero(shown == 0) > 1000


def test_texture_is_upright_and_faces_the_right_way(boxes):
    """The band of a trailer's tarpaulin is white, its lamps are red and at the rear alone."""
    solids = boxes(((15.0, 0.0, 1.6), (4.0, 2.6, 3.2)))
    colors = np.array([[[0.0, 120.0, 0.0], [230.0, 230.0, 230.0]]])
    textures = np.array([Texture.TARPAULIN])
    rear = dataclasses.replace(solids, textures=textures, colors=colors)
    front = dataclasses.replace(rear, yaws=np.array([np.pi]))

    def pixel(boxes_seen, height, left):
        point = np.array([[13.0, left, height]])
        column, row = project(point)[0].astype(int)
        return view(boxes_seen)[0][row, column].astype(int)

    assert pixel(rear, 1.8, 0.0).min() > 120, 'the band in the middle'
    blue, green, _ = pixel(rear, 2.9, 0.0)
    assert green > blue + 40, 'green above the band'
    for left in (-1.1, 1.1):
        blue, _, red = pixel(rear, 0.2, left)
        assert red > blue + 100
        blue, _, red = pixel(front, 0.2, left)
        assert red < blue + 60


@pytest.fixture(scope='module')
def street():
    """The same street in every weather, seen by the front camera."""
    scene = build_scene(np.random.default_rng(4), (0.0, 0.0), 2.5)
    pose = scene.ego_pose(1.0)
    caster = RayCaster(scene.solids(1.0, frame=pose))
    lamps = LampLight(street_lamps(scene.scenery))

    def look(weather):
        renderer = Renderer(caster, pose, scene.road, weather, lamps)
        return renderer.render(CAMERA, np.random.default_rng(0))[0].astype(float)

    return look


def noise(image):
    """Most neighbours in the sky differ by noise alone."""
    return np.median(np.abs(np.diff(image[:20], axis=1)))


def test_night_is_darker_and_noisier_than_day(street):
    day, night = street(WEATHERS['day']), street(WEATHERS['night'])
    assert night.mean() < 0.5 * day.mean()
    assert noise(night) > 1.8 * noise(day)


@pytest.mark.parametrize('name', ['rain', 'fog'])
def test_rain_and_fog_take_away_contrast(street, name):
    assert street(WEATHERS[name]).std() < 0.9 * street(WEATHERS['day']).std()


def test_less_harm_brings_the_images_nearer_to_those_without(street):
    for name in ('night', 'rain', 'fog'):
        unharmed, little, full = (
            street(WEATHERS[name].scaled(harm, 1.0)) for harm in (0.0, 0.4, 1.0)
        )
        assert np.abs(little - unharmed).mean() < 0.8 * np.abs(full - unharmed).mean(), name


def test_lamp_light_is_a_sum_of_gaussians():
    positions = np.array([[0.0, 0.0], [9.0, 4.0]])
    points = np.random.default_rng(0).uniform(-10, 20, (200, 2))
    squared = ((points[:, None] - positions) ** 2).sum(axis=-1)
    expected = 0.55 * np.exp(-squared / (2 * 7.0**2)).sum(axis=1)
    np.testing.assert_allclose(LampLight(positions).at(*points.T), expected, atol=0.03)
    assert LampLight(positions).at(np.array([1e4]), np.array([0.0])) == 0
