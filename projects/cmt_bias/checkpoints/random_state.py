"""Save and restore every random generator that a training process draws from."""

import random
from typing import Any

import numpy as np
import torch


def capture_random_state() -> dict[str, Any]:
    """Copy the states of the global generators of this process.

    Those are python's, numpy's, torch's on the CPU and, where there is a GPU, torch's on the
    current device.

    Returns:
        A dict of tensors, numbers and strings alone, which `torch.load(weights_only=True)` reads.
    """
    version, words, python_gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    state = {
        'python': {'version': version, 'words': torch.tensor(words), 'gauss': python_gauss},
        'numpy': {
            'bit_generator': numpy_state['bit_generator'],
            'key': torch.from_numpy(numpy_state['state']['key'].astype(np.int64)),
            'position': int(numpy_state['state']['pos']),
            'has_gauss': int(numpy_state['has_gauss']),
            'gauss': float(numpy_state['gauss']),
        },
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the global generators to what `capture_random_state` returned.

    The GPU's generator is left alone where the state was captured without GPU, or there is none.

    Args:
        state: A captured state; its tensors may have been moved to any device.
    """
    python = state['python']
    words = tuple(python['words'].tolist())
    random.setstate((python['version'], words, python['gauss']))
    numpy = state['numpy']
    np.random.set_state(
        {
            'bit_generator': numpy['bit_generator'],
            'state': {
                'key': numpy['key'].cpu().numpy().astype(np.uint32),
                'pos': numpy['position'],
            },
            'has_gauss': numpy['has_gauss'],
            'gauss': numpy['gauss'],
        }
    )
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
