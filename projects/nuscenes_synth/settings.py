"""Settings of a synthetic dataset."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from .rig import FULL_IMAGE_HEIGHT, FULL_IMAGE_WIDTH
from .weather import WEATHER_CYCLE, WEATHERS, Weather

# Part of the stored settings: raise it when the same settings give other data than before.
GENERATOR_VERSION = 2

KEYFRAME_INTERVAL = 0.5

# Version: name and number of scenes of the official training and validation split.
_SPLITS = {
    'v1.0-trainval': (('train', 700), ('val', 150)),
    'v1.0-mini': (('mini_train', 8), ('mini_val', 2)),
}

# A location's map has MAP_CELLS x MAP_CELLS patches of MAP_CELL_SIZE metres, each of which holds
# one street. With more scenes than patches, streets share a patch, as drives do in nuScenes.
MAP_CELLS = 4
MAP_CELL_SIZE = 240.0
LOCATIONS = (
    'singapore-onenorth',
    'boston-seaport',
    'singapore-queenstown',
    'singapore-hollandvillage',
)


@dataclass(frozen=True)
class ScenePlan:
    """Name, weather and place of one scene.

    Attributes:
        name: Official nuScenes scene name, which decides on the split.
        number: The number in the name; seeds the scene's random draws, so that a scene is the
            same in datasets of any size.
        weather: The scene's weather, with its harm to the sensors as set.
        location: nuScenes location name.
        cell: Column and row of the scene's patch on the location's map.
    """

    name: str
    number: int
    weather: Weather
    location: str
    cell: tuple[int, int]

    @property
    def origin(self) -> tuple[float, float]:
        """World (x, y) of the middle of the scene's patch, metres."""
        column, row = self.cell
        return (column + 0.5) * MAP_CELL_SIZE, (row + 0.5) * MAP_CELL_SIZE


@dataclass(frozen=True)
class DatasetSettings:
    """What decides the content of a synthetic dataset.

    Attributes:
        version: ``v1.0-trainval`` or ``v1.0-mini``.
        train_scenes: Number of scenes that carry names of the official training split.
        val_scenes: Number of scenes that carry names of the official validation split.
        samples_per_scene: Keyframes in a scene, two a second.
        sweeps: LiDAR sweeps between two keyframes, evenly spaced in time.
        image_scale: Image size as a share of 1600 x 900.
        lidar_azimuths: LiDAR firings per revolution; the real sensor makes about 1084.
        camera_harm: Factor on what night, rain and fog do to the images; 0 is next to nothing.
        lidar_harm: Factor on what rain and fog do to the LiDAR; 0 is nothing.
        seed: Seed of every random draw.
    """

    version: str = 'v1.0-trainval'
    train_scenes: int = 40
    val_scenes: int = 20
    samples_per_scene: int = 6
    sweeps: int = 1
    image_scale: float = 0.25
    lidar_azimuths: int = 560
    camera_harm: float = 1.0
    lidar_harm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.version not in _SPLITS:
            raise ValueError(f'version must be one of {", ".join(_SPLITS)}, not {self.version!r}')
        (_, most_train), (_, most_val) = _SPLITS[self.version]
        _check_range('train_scenes', self.train_scenes, 1, most_train, self.version)
        _check_range('val_scenes', self.val_scenes, 1, most_val, self.version)
        # With a single keyframe an object has no velocity.
        _check_range('samples_per_scene', self.samples_per_scene, 2, 40)
        _check_range('sweeps', self.sweeps, 0, 9)
        _check_range('image_scale', self.image_scale, 0.05, 1.0)
        _check_range('lidar_azimuths', self.lidar_azimuths, 90, 4096)
        _check_range('camera_harm', self.camera_harm, 0.0, 4.0)
        _check_range('lidar_harm', self.lidar_harm, 0.0, 4.0)
        if self.seed < 0:
            raise ValueError(f'seed must not be negative, but is {self.seed}')

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width = round(FULL_IMAGE_WIDTH * self.image_scale)
        return width, round(FULL_IMAGE_HEIGHT * self.image_scale)

    @property
    def scene_duration(self) -> float:
        """Time from the first to the last keyframe in seconds."""
        return (self.samples_per_scene - 1) * KEYFRAME_INTERVAL

    def scene_plans(self) -> list[ScenePlan]:
        """List the scenes, training scenes first."""
        from nuscenes.utils import splits  # takes a second, which the workers need not spend

        plans: list[ScenePlan] = []
        counts = (self.train_scenes, self.val_scenes)
        for (split, _), count in zip(_SPLITS[self.version], counts, strict=True):
            for position, name in enumerate(getattr(splits, split)[:count]):
                number = int(name.removeprefix('scene-'))
                weather = WEATHERS[WEATHER_CYCLE[position % len(WEATHER_CYCLE)]]
                column, row = divmod((number // len(LOCATIONS)) % MAP_CELLS**2, MAP_CELLS)
                plans.append(
                    ScenePlan(
                        name=name,
                        number=number,
                        weather=weather.scaled(self.camera_harm, self.lidar_harm),
                        location=LOCATIONS[number % len(LOCATIONS)],
                        cell=(column, row),
                    )
                )
        return plans

    def to_record(self) -> dict[str, Any]:
        """Return the settings, with the generator's version, as stored beside the data."""
        return {'generator_version': GENERATOR_VERSION, **dataclasses.asdict(self)}


def _check_range(
    name: str, value: float, lowest: float, highest: float, version: str | None = None
) -> None:
    if not lowest <= value <= highest:
        where = f' for version {version}' if version else ''
        raise ValueError(f'{name} must be between {lowest} and {highest}{where}, but is {value}')


# Named sizes. A scene is the same in all of them: the smaller ones are parts of the larger.
PRESETS = {
    'demo': DatasetSettings(),
    'base': DatasetSettings(train_scenes=160, val_scenes=40),
}
