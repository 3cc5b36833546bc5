import numpy as np
import pytest
from nuscenes.utils.geometry_utils import view_points

from nuscenes_synth.camera import CameraPose, LampLight, render
from nuscenes_synth.rig import CAMERAS
from nuscenes_synth.road import Road
from nuscenes_synth.scene import build_scene
from nuscenes_synth.scenery import street_lamps
from nuscenes_synth.weather import WEATHERS

WIDTH, HEIGHT = 320, 180
ROAD = Road((0.0, 0.0), 0.0, 0.0, (2.4, 2.4), None)
CAMERA = next(camera for camera in CAMERAS if camera.channel == 'CAM_FRONT')


@pytest.fixture()
def pose():
    """The front camera of a vehicle at the world's origin, heading along x."""
    return CameraPose(
        CAMERA.ego_from_sensor(), np.eye(4), CAMERA.intrinsics(WIDTH, HEIGHT), WIDTH, HEIGHT
    )


def view(pose, solids, weather='day'):
    lamps = LampLight(np.array([[1000.0, 1000.0]]))
    rng = np.random.default_rng(0)
    return render(pose, solids, len(solids), ROAD, WEATHERS[weather], lamps, rng)


def project(pose, points):
    """World points to pixels with the devkit, (N, 2)."""
    in_camera = (points - pose.world_from_camera[:3, 3]) @ pose.world_from_camera[:3, :3]
    return view_points(in_camera.T, pose.intrinsics, normalize=True)[:2].T


def test_object_is_drawn_exactly_where_its_corners_project(pose, boxes):
    solids = boxes(((15.0, 2.0, 1.0), (4.0, 2.0, 2.0)))
    rows, columns = np.nonzero(view(pose, solids).owners == 0)
    pixels = project(pose, solids.corners()[0])
    drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    expected = [*pixels.min(axis=0), *pixels.max(axis=0)]
    np.testing.assert_allclose(drawn, expected, atol=1.0)


def test_object_changes_the_colour_at_its_projected_centre(pose, boxes):
    solids = boxes(((15.0, 2.0, 1.0), (4.0, 2.0, 2.0)))
    column, row = project(pose, solids.centers)[0].astype(int)
    with_object = view(pose, solids).image[row, column].astype(int)
    without = view(pose, boxes()).image[row, column].astype(int)
    assert np.abs(with_object - without).max() > 40


def test_depth_is_that_of_the_front_face(pose, boxes):
    result = view(pose, boxes(((15.0, 0.0, 1.0), (4.0, 2.0, 2.0))))
    expected = 13.0 - CAMERA.translation[0]
    np.testing.assert_allclose(result.depth[result.owners == 0].min(), expected, atol=0.1)


def test_nearer_object_hides_the_farther_one_whatever_their_order(pose, boxes):
    near, far = ((12.0, 0.0, 1.5), (1.0, 6.0, 3.0)), ((20.0, 0.0, 1.0), (4.0, 2.0, 2.0))
    for solids, hidden in ((boxes(near, far), 1), (boxes(far, near), 0)):
        result = view(pose, solids)
        assert not (result.owners == hidden).any()
        assert result.covered_pixels[hidden] > 100


def test_covered_pixels_of_an_unhidden_object_are_all_visible(pose, boxes):
    result = view(pose, boxes(((15.0, 2.0, 1.0), (4.0, 2.0, 2.0))))
    assert result.covered_pixels[0] == np.count_nonzero(result.owners == 0) > 100


def test_object_behind_the_camera_is_not_drawn(pose, boxes):
    result = view(pose, boxes(((-15.0, 0.0, 1.0), (4.0, 2.0, 2.0))))
    assert (result.owners == -1).all()
    assert result.covered_pixels.tolist() == [0]


def test_object_that_reaches_behind_the_camera_is_drawn_up_to_the_edge(pose, boxes):
    """A long wall at the left, from behind the camera to far ahead."""
    result = view(pose, boxes(((10.0, 3.0, 1.5), (40.0, 0.5, 3.0))))
    left_column = result.owners[:, 0]
    assert (left_column[HEIGHT // 2 :] == 0).any()
    assert np.count_nonzero(result.owners == 0) > 1000


@pytest.fixture(scope='module')
def street():
    """The same street at all hours, seen by the front camera."""

    def look(weather):
        scene = build_scene(np.random.default_rng(4), weather, (0.0, 0.0), 2.5)
        ego = scene.world_from_ego(1.0)
        pose = CameraPose(
            ego @ CAMERA.ego_from_sensor(),
            ego,
            CAMERA.intrinsics(WIDTH, HEIGHT),
            WIDTH,
            HEIGHT,
        )
        lamps = LampLight(street_lamps(scene.scenery))
        return render(
            pose,
            scene.solids(1.0),
            len(scene.actors),
            scene.road,
            scene.weather,
            lamps,
            np.random.default_rng(0),
        )

    return {weather: look(weather).image.astype(float) for weather in WEATHERS}


def test_night_is_darker_than_day(street):
    assert street['night'].mean() < 0.5 * street['day'].mean()


def test_night_has_more_noise(street):
    def noise(image):  # most neighbours differ by noise alone
        return np.median(np.abs(np.diff(image, axis=1)))

    assert noise(street['night']) > 1.8 * noise(street['day'])


def test_rain_takes_away_contrast(street):
    assert street['rain'].std() < 0.8 * street['day'].std()


def test_lamp_light_is_a_sum_of_gaussians():
    positions = np.array([[0.0, 0.0], [9.0, 4.0]])
    points = np.random.default_rng(0).uniform(-10, 20, (200, 2))
    squared = ((points[:, None] - positions) ** 2).sum(axis=-1)
    expected = 0.55 * np.exp(-squared / (2 * 7.0**2)).sum(axis=1)
    np.testing.assert_allclose(LampLight(positions).at(points), expected, atol=0.03)
    assert LampLight(positions).at(np.array([[1e4, 0.0]])) == 0
