"""What the ``type`` of a config names, in all forms that mmengine takes."""

from typing import Any


def type_name(config: Any) -> str:
    """The name of a config's class, maybe given with a scope or as itself; '' without a type."""
    kind = config.get('type') if hasattr(config, 'get') else None
    return kind.rsplit('.', 1)[-1] if isinstance(kind, str) else getattr(kind, '__name__', '')
