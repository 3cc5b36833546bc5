"""Which other pictures and clouds the sensors of nuScenes have recorded.

The names of nuScenes' files tell it: ``LOG__CHANNEL__TIME.jpg``, time in microseconds.
"""

import re
from functools import lru_cache
from pathlib import Path

import numpy as np

_NAME = re.compile(r'(?P<log>.+)__(?P<channel>[A-Z_]+)__(?P<time>\d+)\..+')
_OTHER_SCENE = 60e6  # microseconds: a scene of nuScenes lasts 20 s


def file_at(path: str, seconds: float) -> str | None:
    """The file of the same sensor that is nearest to so many seconds before that at ``path``.

    At the beginning of a recording it is that of so many seconds later. None if there is none in
    the recording that differs from what was asked for by half of it at most.
    """
    same_log, ages, files = _recorded_beside(path)
    ages, files = ages[same_log], files[same_log]
    for age in (seconds * 1e6, -seconds * 1e6):
        errors = np.abs(ages - age)
        if errors.min() <= seconds * 1e6 / 2:
            return str(files[errors.argmin()])
    return None


def file_of_other_scene(path: str, rng: np.random.Generator) -> str | None:
    """A file of the same sensor from another scene, drawn at random; None if there is none."""
    same_log, ages, files = _recorded_beside(path)
    others = files[~same_log | (np.abs(ages) > _OTHER_SCENE)]
    return str(others[rng.integers(len(others))]) if len(others) else None


def _recorded_beside(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all files of a sensor: whether of the same log, how much older (microseconds), path."""
    match = _NAME.fullmatch(Path(path).name)
    if match is None:
        raise ValueError(
            f"'{path}' is not named as nuScenes names its files (LOG__CHANNEL__TIME.jpg), by "
            'which other files of its sensor are found'
        )
    logs, times, files = _recorded(Path(path).parent)
    return logs == match['log'], int(match['time']) - times, files


@lru_cache(maxsize=64)
def _recorded(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logs, times in microseconds and paths of the files of a folder, in this order."""
    matches = [match for file in folder.iterdir() if (match := _NAME.fullmatch(file.name))]
    found = sorted((match['log'], int(match['time']), match.string) for match in matches)
    logs, times, names = zip(*found, strict=True)
    return np.array(logs), np.array(times), np.array([str(folder / name) for name in names])
