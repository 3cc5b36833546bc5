"""The condition of each sample: day, night, rain or fog."""

from collections import Counter
from collections.abc import Iterable, Mapping

from nuscenes import NuScenes

from ..failures.scene_conditions import scene_condition


def sample_conditions(nusc: NuScenes, tokens: Iterable[str]) -> dict[str, str]:
    """The condition of each sample.

    Args:
        nusc: The tables.
        tokens: Samples.

    Returns:
        Condition by token.
    """
    scenes = {scene['token']: scene_condition(scene['description']) for scene in nusc.scene}
    return {token: scenes[nusc.get('sample', token)['scene_token']] for token in tokens}


def group_by_condition(conditions: Mapping[str, str]) -> dict[str, set[str]]:
    """Tokens of each condition that occurs, in alphabetical order."""
    groups: dict[str, set[str]] = {name: set() for name in sorted(set(conditions.values()))}
    for token, condition in conditions.items():
        groups[condition].add(token)
    return groups


def halves_by_scene(nusc: NuScenes, tokens: Iterable[str]) -> tuple[set[str], set[str]]:
    """Split samples in two by taking their scenes in turn, ordered by name.

    Args:
        nusc: The tables.
        tokens: Samples.

    Returns:
        The halves; no scene is in both. With one scene the second is empty.
    """
    members: dict[str, set[str]] = {}
    for token in tokens:
        members.setdefault(nusc.get('sample', token)['scene_token'], set()).add(token)
    scenes = sorted(members, key=lambda token: (nusc.get('scene', token)['name'], token))
    first, second = ([members[scene] for scene in scenes[start::2]] for start in (0, 1))
    return set().union(*first), set().union(*second)


def count_scenes(nusc: NuScenes, tokens: Iterable[str]) -> dict[str, int]:
    """The number of scenes that samples come from, by condition.

    Args:
        nusc: The tables.
        tokens: Samples.

    Returns:
        Number of scenes of each condition that occurs.
    """
    scenes = {nusc.get('sample', token)['scene_token'] for token in tokens}
    return Counter(scene_condition(nusc.get('scene', token)['description']) for token in scenes)
