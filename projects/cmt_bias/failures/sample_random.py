"""Random numbers that depend on the sample alone."""

import hashlib
from collections.abc import Mapping

import numpy as np

_NAMES_OF_A_SAMPLE = ('token', 'sample_idx', 'lidar_path')


def sample_token(results: Mapping) -> str:
    """What names a sample: nuScenes' token, else the number or the file that the dataset gave it.

    Raises:
        KeyError: If the sample has none of them.
    """
    for key in _NAMES_OF_A_SAMPLE:
        if results.get(key) is not None:
            return str(results[key])
    raise KeyError(
        f'a sample has none of {", ".join(_NAMES_OF_A_SAMPLE)}, by which a sensor failure draws '
        'its random numbers; make the info files anew with tools/create_data.py'
    )


def sample_generator(seed: int, purpose: str, results: Mapping) -> np.random.Generator:
    """A generator for one sample and purpose.

    It depends neither on the process, nor on the order of the samples, nor on numpy's global
    state, which it leaves alone: two tests with other numbers of workers draw the same.

    Args:
        seed: Seed of the whole test.
        purpose: What is drawn, so that two failures of one sample are independent.
        results: The sample in a pipeline.

    Returns:
        The generator.
    """
    name = f'{seed}/{purpose}/{sample_token(results)}'
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, 'big'))
