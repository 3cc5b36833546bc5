"""Changes of a config by dotted paths, which also reach elements of lists by their ``type``."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config


class OverrideError(ValueError):
    """An override that does not fit the config; the message names its path."""


def apply_overrides(cfg: Config, overrides: Mapping[str, Any]) -> None:
    """Merge values into a config, in place.

    A path such as ``'custom_hooks.BiasScaleHook.interval'`` finds the element of a list by its
    ``type`` (or by its index). Dicts are merged as in mmengine, with ``_delete_``.

    Args:
        cfg: The config.
        overrides: Dotted paths and their values.

    Raises:
        OverrideError: If a path leads nowhere: all but its last part, and its first, must exist.
    """
    for path, value in overrides.items():
        indexed = _indexed_path(cfg, path, last_may_be_new='.' in path)
        try:
            cfg.merge_from_dict({indexed: copy.deepcopy(value)})
        except (TypeError, KeyError) as error:
            raise OverrideError(f"override '{path}': {error}") from error


def remove_entries(cfg: Config, paths: Sequence[str]) -> None:
    """Take entries out of a config, in place.

    Args:
        cfg: The config.
        paths: Dotted paths as for :func:`apply_overrides`.

    Raises:
        OverrideError: If there is no such entry.
    """
    for path in paths:
        *parents, last = _indexed_path(cfg, path, last_may_be_new=False).split('.')
        holder: Any = cfg
        for part in parents:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        if isinstance(holder, list):
            del holder[int(last)]
        else:
            holder.pop(last)


def _indexed_path(cfg: Config, path: str, last_may_be_new: bool) -> str:
    """The path with indices in place of types."""
    found: list[str] = []
    holder: Any = cfg
    parts = path.split('.')
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        key = _key_in(holder, part)
        if key is None:
            if is_last and last_may_be_new and isinstance(holder, Mapping | Config):
                return '.'.join([*found, part])
            where = '.'.join(parts[:number]) or 'the config'
            raise OverrideError(
                f"'{path}': {where} has no '{part}' ({_what_is_there(holder)}); correct the path"
            )
        found.append(str(key))
        holder = holder[key]
    return '.'.join(found)


def _key_in(holder: Any, part: str) -> str | int | None:
    if isinstance(holder, list | tuple):
        if part.isdigit() and int(part) < len(holder):
            return int(part)
        matching = [i for i, item in enumerate(holder) if _type_of(item) == part]
        return matching[0] if len(matching) == 1 else None
    if isinstance(holder, Mapping | Config) and part in holder:
        return part
    return None


def _type_of(item: Any) -> str | None:
    return item.get('type') if isinstance(item, Mapping) else None


def _what_is_there(holder: Any) -> str:
    if isinstance(holder, list | tuple):
        return 'its elements: ' + (', '.join(str(_type_of(item)) for item in holder) or 'none')
    if isinstance(holder, Mapping | Config):
        return 'its keys: ' + ', '.join(sorted(map(str, holder.keys())))
    return f'it is {holder!r}'
