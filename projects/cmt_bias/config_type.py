"""What the ``type`` of a config names, in all forms that mmengine takes."""

from typing import Any


def type_name(config: Any) -> str:
    """The name of the class that a config is of: '' for what is no config, or of no type.

    ``type`` may be the name, the name with a scope ('mmdet3d.CBGSDataset'), or in a config that is
    pure Python the class itself.
    """
    kind = config.get('type') if hasattr(config, 'get') else None
    return kind.rsplit('.', 1)[-1] if isinstance(kind, str) else getattr(kind, '__name__', '')
