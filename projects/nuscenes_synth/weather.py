"""What day, night, rain and fog change for the cameras and the LiDAR."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from .shapes import Color


@dataclass(frozen=True)
class Weather:
    """Sensor-relevant state of one scene.

    Attributes:
        name: Key in :data:`WEATHERS`.
        description: Words for the nuScenes scene description.
        is_night: Lamps are lit, everything else is dark.
        is_wet: The road is.
        sky_horizon: BGR colour of the sky at the horizon.
        sky_zenith: BGR colour of the sky overhead.
        sun: Share of the light that depends on the direction of a surface, 0 to 1.
        ambient: Brightness of surfaces, 1 in daylight.
        visibility: Distance in metres at which haze hides 63 % of a surface's colour.
        image_noise: Standard deviation of the camera noise, grey levels.
        image_blur: Standard deviation of the blur, as a share of the image's width.
        rain_streaks: Streaks drawn per million pixels.
        lidar_dropout: Share of LiDAR returns lost next to the sensor.
        lidar_range: Distance in metres over which 63 % of the rest is lost.
        lidar_clutter: Share of beams that return from a drop close to the sensor.
    """

    name: str
    description: str
    is_night: bool = False
    is_wet: bool = False
    sky_horizon: Color = (235.0, 225.0, 210.0)
    sky_zenith: Color = (210.0, 150.0, 95.0)
    sun: float = 0.5
    ambient: float = 1.0
    visibility: float = 400.0
    image_noise: float = 2.0
    image_blur: float = 0.0
    rain_streaks: float = 0.0
    lidar_dropout: float = 0.02
    lidar_range: float = 1000.0
    lidar_clutter: float = 0.0

    def scaled(self, camera: float, lidar: float) -> 'Weather':
        """Return the weather with its harm to the sensors made stronger or weaker.

        Args:
            camera: Factor on what sets the images apart from those by day, in darkness, haze,
                noise, blur and streaks; 0 leaves the sun's direction, wetness and lamps alone.
            lidar: Factor on what sets the LiDAR apart from that by day.
        """
        day = WEATHERS['day']

        def between(name: str, factor: float) -> float:
            ours, days = getattr(self, name), getattr(day, name)
            if name in ('visibility', 'lidar_range'):  # what is lost goes with the reciprocal
                return 1.0 / max(1.0 / days + factor * (1.0 / ours - 1.0 / days), 1e-4)
            if name == 'ambient':
                return days * float((ours / days) ** factor)
            return days + factor * (ours - days)

        changed: dict[str, Any] = {name: between(name, camera) for name in _CAMERA_HARM}
        changed.update({name: between(name, lidar) for name in _LIDAR_HARM})
        for name in ('lidar_dropout', 'lidar_clutter'):
            changed[name] = float(np.clip(changed[name], 0.0, 0.95))
        return dataclasses.replace(self, **changed)


_CAMERA_HARM = ('ambient', 'visibility', 'image_noise', 'image_blur', 'rain_streaks')
_LIDAR_HARM = ('lidar_dropout', 'lidar_range', 'lidar_clutter')

WEATHERS = {
    weather.name: weather
    for weather in (
        Weather('day', 'Day, city street'),
        Weather(
            'night',
            'Night, city street, street lamps',
            is_night=True,
            sky_horizon=(30.0, 22.0, 18.0),
            sky_zenith=(14.0, 9.0, 8.0),
            sun=0.0,
            ambient=0.09,
            visibility=300.0,
            image_noise=12.0,
            image_blur=0.001,
        ),
        Weather(
            'rain',
            'Rain, city street, wet road',
            is_wet=True,
            sky_horizon=(165.0, 160.0, 155.0),
            sky_zenith=(150.0, 142.0, 135.0),
            sun=0.12,
            ambient=0.72,
            visibility=60.0,
            image_noise=6.0,
            image_blur=0.004,
            rain_streaks=1800.0,
            lidar_dropout=0.12,
            lidar_range=50.0,
            lidar_clutter=0.01,
        ),
        Weather(
            'fog',
            'Fog, city street',
            sky_horizon=(205.0, 203.0, 200.0),
            sky_zenith=(198.0, 194.0, 190.0),
            sun=0.1,
            ambient=0.85,
            visibility=70.0,
            image_noise=2.5,
            lidar_dropout=0.15,
            lidar_range=22.0,
            lidar_clutter=0.04,
        ),
    )
}

# Weather of the scenes of a split, in order and then again from the start.
WEATHER_CYCLE = ('day', 'night', 'rain', 'day', 'fog')
