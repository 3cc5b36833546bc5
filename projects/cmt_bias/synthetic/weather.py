"""What day, night and rain change for the cameras and the LiDAR."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Weather:
    """Sensor-relevant state of one scene.

    Attributes:
        name: Key in :data:`WEATHERS`.
        description: Words for the nuScenes scene description.
        is_night: Lamps are lit, everything else is dark.
        ambient: Brightness of surfaces, 1 in daylight.
        sun: Share of the light that depends on the direction of a surface, 0 to 1.
        sky_horizon: BGR colour of the sky at the horizon.
        sky_zenith: BGR colour of the sky overhead.
        visibility: Distance in metres at which haze hides 63 % of a surface's colour.
        image_noise: Standard deviation of the camera noise, grey levels.
        rain_streaks: Streaks drawn per million pixels.
        lidar_dropout: Share of LiDAR returns lost next to the sensor.
        lidar_dropout_distance: Distance in metres over which 63 % of the rest is lost.
        lidar_clutter: Share of beams that return from a drop close to the sensor.
    """

    name: str
    description: str
    is_night: bool
    ambient: float
    sun: float
    sky_horizon: tuple[float, float, float]
    sky_zenith: tuple[float, float, float]
    visibility: float
    image_noise: float
    rain_streaks: int
    lidar_dropout: float
    lidar_dropout_distance: float
    lidar_clutter: float


WEATHERS = {
    'day': Weather(
        name='day',
        description='Day, city street',
        is_night=False,
        ambient=1.0,
        sun=0.5,
        sky_horizon=(235.0, 225.0, 210.0),
        sky_zenith=(210.0, 150.0, 95.0),
        visibility=400.0,
        image_noise=2.0,
        rain_streaks=0,
        lidar_dropout=0.02,
        lidar_dropout_distance=1000.0,
        lidar_clutter=0.0,
    ),
    'night': Weather(
        name='night',
        description='Night, city street, street lamps',
        is_night=True,
        ambient=0.16,
        sun=0.0,
        sky_horizon=(30.0, 22.0, 18.0),
        sky_zenith=(14.0, 9.0, 8.0),
        visibility=300.0,
        image_noise=6.0,
        rain_streaks=0,
        lidar_dropout=0.02,
        lidar_dropout_distance=1000.0,
        lidar_clutter=0.0,
    ),
    'rain': Weather(
        name='rain',
        description='Rain, city street, wet road',
        is_night=False,
        ambient=0.72,
        sun=0.12,
        sky_horizon=(165.0, 160.0, 155.0),
        sky_zenith=(150.0, 142.0, 135.0),
        visibility=90.0,
        image_noise=3.0,
        rain_streaks=1800,
        lidar_dropout=0.10,
        lidar_dropout_distance=120.0,
        lidar_clutter=0.004,
    ),
}

# Weather of the scenes of a split, in order and then again from the start.
WEATHER_CYCLE = ('day', 'night', 'rain', 'day', 'day')
