"""Day, night and rain, from the scene descriptions of the nuScenes tables."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from nuscenes import NuScenes

DAY = 'day'
CONDITION_WORDS = {'night': r'\bnight', 'rain': r'\brain'}


def scene_condition(description: str) -> str:
    """The condition that a scene's description tells of.

    Args:
        description: Such as 'Night, after rain, many peds in lit area'.

    Returns:
        'day', 'night', 'rain' or, where both are named, 'night and rain': each scene has exactly
        one. As usual with nuScenes, 'after rain' counts as rain.
    """
    named = [
        condition
        for condition, word in CONDITION_WORDS.items()
        if re.search(word, description, re.IGNORECASE)
    ]
    return ' and '.join(named) or DAY


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
