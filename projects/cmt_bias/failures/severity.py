"""How strong a degradation is."""

from collections.abc import Sequence
from typing import TypeVar

SEVERITIES = (1, 2, 3)
"""Three levels, as in MultiCorrupt (Beemelmanns et al., 2024); their strengths are our own."""

T = TypeVar('T')


def at_severity(levels: Sequence[T], severity: int, asked_by: str) -> T:
    """The settings of one severity.

    Args:
        levels: Settings of severity 1, 2 and 3.
        severity: 1 to 3.
        asked_by: Name of the degradation, for the message.

    Returns:
        One of ``levels``.

    Raises:
        ValueError: If there is no such severity.
    """
    if severity not in SEVERITIES:
        raise ValueError(f'{asked_by}: severity={severity} must be one of {SEVERITIES}')
    return levels[severity - 1]
