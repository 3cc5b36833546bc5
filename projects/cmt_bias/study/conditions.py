"""The condition of each sample: day, night or rain."""

from collections.abc import Iterable, Mapping

from nuscenes import NuScenes

from ..datasets.scene_conditions import scene_condition


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
