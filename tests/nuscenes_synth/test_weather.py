import dataclasses

import pytest

from nuscenes_synth import DatasetSettings
from nuscenes_synth.weather import WEATHERS

CAMERA_FIELDS = ('ambient', 'visibility', 'image_noise', 'image_blur', 'rain_streaks')
LIDAR_FIELDS = ('lidar_dropout', 'lidar_range', 'lidar_clutter')


@pytest.mark.parametrize('name', list(WEATHERS))
def test_full_harm_is_the_weather_itself(name):
    for field, value in dataclasses.asdict(WEATHERS[name].scaled(1.0, 1.0)).items():
        expected = getattr(WEATHERS[name], field)
        assert value == (pytest.approx(expected) if isinstance(expected, float) else expected)


@pytest.mark.parametrize('name', list(WEATHERS))
def test_no_harm_leaves_the_sensors_as_by_day(name):
    unharmed = WEATHERS[name].scaled(0.0, 0.0)
    for field in CAMERA_FIELDS + LIDAR_FIELDS:
        assert getattr(unharmed, field) == pytest.approx(getattr(WEATHERS['day'], field)), field


def test_one_sensor_can_be_harmed_alone():
    rain = WEATHERS['rain'].scaled(2.0, 0.0)
    assert rain.visibility < WEATHERS['rain'].visibility
    assert rain.lidar_range == pytest.approx(WEATHERS['day'].lidar_range)


def test_settings_decide_on_the_harm_in_every_scene():
    plans = DatasetSettings(train_scenes=5, camera_harm=0.0, lidar_harm=2.0).scene_plans()
    for plan in plans:
        assert plan.weather == WEATHERS[plan.weather.name].scaled(0.0, 2.0)
