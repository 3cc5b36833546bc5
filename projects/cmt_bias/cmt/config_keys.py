"""Keys of a config that classes take, and the answer to those that they do not."""

import difflib
import inspect
from collections.abc import Iterable


def accepted_arguments(cls: type) -> set[str] | None:
    """Names of the arguments that a class takes; None if it takes any.

    Where it takes ``**kwargs``, those that its bases take are among them.
    """
    known: set[str] = set()
    for base in inspect.getmro(cls):
        if '__init__' in vars(base):
            _, *parameters = inspect.signature(vars(base)['__init__']).parameters.values()
            named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
            known |= named
            if len(named) == len(parameters):
                return known
    return None


def refuse_unknown_keys(owner: type, key: str, unknown: Iterable[str]) -> None:
    """Raise TypeError if the config at ``key`` gave a class keys that it does not take."""
    known = accepted_arguments(owner) or set()
    hints = []
    for name in unknown:
        nearest = difflib.get_close_matches(name, known, n=1)
        hints.append(f"'{name}'" + (f" (did you mean '{nearest[0]}'?)" if nearest else ''))
    if hints:
        raise TypeError(
            f'{owner.__name__}: unknown key in {key}: {", ".join(hints)}. '
            f'Known keys: {", ".join(sorted(known))}.'
        )
