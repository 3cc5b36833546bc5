"""Which other pictures and clouds the sensors of nuScenes have recorded.

An info file of a sample names its own files only. The names of nuScenes' files tell the rest:
``LOG__CHANNEL__TIME.jpg``, with the recording's log and the time in microseconds.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

_NAME = re.compile(r'(?P<log>.+)__(?P<channel>[A-Z_]+)__(?P<time>\d+)\..+')
_SECOND = 1e6
_OTHER_SCENE = 60.0  # seconds: a scene of nuScenes lasts 20


def file_at(path: str, seconds: float) -> str | None:
    """The file of the same sensor that is nearest to so many seconds before.

    Args:
        path: A file of nuScenes.
        seconds: How much older; negative for a later one.

    Returns:
        Its path; None if there is none in its recording that differs from what was asked for by
        half of it at most.
    """
    log, time = _log_and_time(path)
    times, names = _files_of(str(Path(path).parent))[log]
    nearest = int(np.abs(times - (time - seconds * _SECOND)).argmin())
    error = abs(time - times[nearest] - seconds * _SECOND) / _SECOND
    return str(Path(path).parent / names[nearest]) if error <= abs(seconds) / 2 else None


def file_of_other_scene(path: str, rng: np.random.Generator) -> str | None:
    """A file of the same sensor from another scene, drawn at random; None if there is none."""
    log, time = _log_and_time(path)
    candidates: list[str] = []
    for other, (times, names) in _files_of(str(Path(path).parent)).items():
        if other != log:
            candidates.extend(names)
            continue
        apart = np.abs(times - time) > _OTHER_SCENE * _SECOND
        candidates.extend(name for name, far in zip(names, apart, strict=True) if far)
    if not candidates:
        return None
    return str(Path(path).parent / candidates[rng.integers(len(candidates))])


def _log_and_time(path: str) -> tuple[str, int]:
    match = _NAME.fullmatch(Path(path).name)
    if match is None:
        raise ValueError(
            f"'{path}' is not named as nuScenes names its files (LOG__CHANNEL__TIME.jpg), by "
            'which other files of its sensor are found'
        )
    return match['log'], int(match['time'])


@lru_cache(maxsize=64)
def _files_of(folder: str) -> Mapping[str, tuple[np.ndarray, Sequence[str]]]:
    """For each log of a folder the times of its files, ascending, and their names."""
    matches = [match for file in Path(folder).iterdir() if (match := _NAME.fullmatch(file.name))]
    files: dict[str, list[tuple[int, str]]] = {}
    for match in matches:
        files.setdefault(match['log'], []).append((int(match['time']), match.string))
    listed = {log: sorted(entries) for log, entries in sorted(files.items())}
    return {
        log: (np.array([time for time, _ in entries]), [name for _, name in entries])
        for log, entries in listed.items()
    }
