"""Answers to keys of a config that no class knows."""

import difflib
import inspect
from collections.abc import Iterable

from mmengine.model import BaseModule


def refuse_unknown_keys(owner: type, key: str, unknown: Iterable[str]) -> None:
    """Raise for keys that a class does not take, with the nearest one that it does.

    Args:
        owner: The class; the arguments of its bases are taken to be its own.
        key: Where its config is, for the message.
        unknown: The keys; nothing is raised without any.

    Raises:
        TypeError: If there are some.
    """
    known = {
        name
        for cls in owner.__mro__
        if issubclass(cls, BaseModule)
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    hints = []
    for name in unknown:
        nearest = difflib.get_close_matches(name, known, n=1)
        hints.append(f"'{name}'" + (f" (did you mean '{nearest[0]}'?)" if nearest else ''))
    if hints:
        raise TypeError(
            f'{owner.__name__}: unknown key in {key}: {", ".join(hints)}. '
            f'Known keys: {", ".join(sorted(known))}.'
        )
