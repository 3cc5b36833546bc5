"""Samples by scene and by condition: day, night, rain or fog."""

from collections import Counter
from collections.abc import Iterable

from nuscenes import NuScenes

from ..failures.scene_conditions import scene_condition


def samples_by_scene(nusc: NuScenes, tokens: Iterable[str]) -> dict[str, set[str]]:
    """Samples by the token of their scene, scenes in the order of their names."""
    members: dict[str, set[str]] = {}
    for token in tokens:
        members.setdefault(nusc.get('sample', token)['scene_token'], set()).add(token)
    scenes = sorted(members, key=lambda token: (nusc.get('scene', token)['name'], token))
    return {scene: members[scene] for scene in scenes}


def samples_by_condition(nusc: NuScenes, tokens: Iterable[str]) -> dict[str, set[str]]:
    """Samples by each condition that occurs, in alphabetical order."""
    groups: dict[str, set[str]] = {}
    for scene, members in samples_by_scene(nusc, tokens).items():
        condition = scene_condition(nusc.get('scene', scene)['description'])
        groups.setdefault(condition, set()).update(members)
    return dict(sorted(groups.items()))


def halves_by_scene(nusc: NuScenes, tokens: Iterable[str]) -> tuple[set[str], set[str]]:
    """Split samples in two by taking their scenes in turn; no scene is in both halves.

    With one scene the second half is empty.
    """
    members = list(samples_by_scene(nusc, tokens).values())
    return set().union(*members[::2]), set().union(*members[1::2])


def count_scenes(nusc: NuScenes, tokens: Iterable[str]) -> dict[str, int]:
    """The number of scenes that samples come from, by condition."""
    scenes = (nusc.get('scene', scene) for scene in samples_by_scene(nusc, tokens))
    return Counter(scene_condition(scene['description']) for scene in scenes)
