"""``tools/measure_sensor_worth.py`` on made-up objects and on the smallest data."""

from types import ModuleType

import numpy as np
import pytest
from nuscenes import NuScenes

from .tool_modules import load_tool


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    """The tool as a module."""
    return load_tool('measure_sensor_worth')


def made_up_views(tool, count, rng):
    """Bicycles and cars that the camera alone tells apart, twice as far away at night."""
    views = []
    for index in range(count):
        name, condition = ('bicycle', 'car')[index % 2], ('day', 'night')[index // 2 % 2]
        distance = 10.0 if condition == 'day' else 20.0
        camera = np.array([float(index % 2), distance]) + rng.normal(0, 0.1, 2)
        views.append(tool.ObjectView(name, condition, distance, 7, rng.normal(size=3), camera))
    return views


def test_a_sensor_that_knows_the_class_is_told_from_one_that_does_not(tool):
    rng = np.random.default_rng(0)
    rows = tool.measure(made_up_views(tool, 400, rng), made_up_views(tool, 200, rng))
    table = {row[0]: row[1:] for row in rows}
    assert list(table) == ['all', 'day', 'night', '0 to 12 m', '20 to 30 m', 'bicycle', 'car']
    objects, points, by_lidar, by_camera, by_both, error = table['all']
    assert (objects, points) == (200, 7)
    assert 0.35 < by_lidar < 0.65
    assert by_camera > 0.98 and by_both > 0.95
    assert error < 3.0, 'a guess that knows nothing is 4 m off or more'
    assert table['night'][0] == table['car'][0] == 100


def test_views_hold_the_points_that_are_annotated(tool, smallest_nuscenes):
    nusc = NuScenes('v1.0-trainval', str(smallest_nuscenes), verbose=False)
    sample = nusc.sample[0]
    views = tool.object_views(nusc, sample, 'day', image_width=160)
    counts = sorted(
        nusc.get('sample_annotation', token)['num_lidar_pts'] for token in sample['anns']
    )
    assert 0 < len(views) <= len(counts)
    remaining = list(counts)
    for view in views:
        remaining.remove(view.points)  # raises if no annotation has that many
        assert view.lidar.shape == views[0].lidar.shape
        assert view.camera.shape == views[0].camera.shape
        assert np.isfinite(view.lidar).all() and np.isfinite(view.camera).all()
