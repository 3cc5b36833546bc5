"""Where :mod:`cmt_bias.spoiled_parts` was before, for who imports the key from here."""

from ..spoiled_parts import SPOILED_SENSORS_KEY

__all__ = ['SPOILED_SENSORS_KEY']
