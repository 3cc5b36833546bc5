"""Pixel values."""

import numpy as np


def as_image(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values cut to 0-255, in the images' dtype; rounded where that has whole numbers only."""
    values = np.clip(values, 0, 255)
    return (np.rint(values) if np.issubdtype(dtype, np.integer) else values).astype(dtype)
