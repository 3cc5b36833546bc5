"""Every random generator that a training draws from: saved, restored, and seeded in workers."""

import random
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import FUNCTIONS
from torch.utils.data import DataLoader


def capture_random_state() -> dict[str, Any]:
    """States of this process's generators: python's, numpy's, torch's on CPU and current GPU.

    Returns:
        A dict of tensors, numbers and strings alone, which `torch.load(weights_only=True)` reads.
    """
    version, words, python_gauss = random.getstate()
    names = ('bit_generator', 'key', 'position', 'has_gauss', 'gauss')
    numpy_state: dict[str, Any] = dict(zip(names, np.random.get_state(), strict=True))
    numpy_state['key'] = torch.from_numpy(numpy_state['key'].astype(np.int64))
    state = {
        'python': {'version': version, 'words': torch.tensor(words), 'gauss': python_gauss},
        'numpy': numpy_state,
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the generators to what `capture_random_state` returned, on whichever device it is.

    The GPU's generator is left alone where the state was captured without GPU, or there is none.
    """
    version, words, python_gauss = state['python'].values()
    random.setstate((version, tuple(words.tolist()), python_gauss))
    kind, key, *rest = state['numpy'].values()
    np.random.set_state((kind, key.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def sampling_seed(dataloader: DataLoader) -> int | None:
    """Seed of the sampler that shuffles; None where it has none."""
    return getattr(_find_sampler(dataloader), 'seed', None)


def set_sampling_seed(dataloader: DataLoader, sampler_seed: int | None, seed: int) -> None:
    """Give sampler and workers the seeds of the run that is resumed.

    They were built before the checkpoint was read, hence with this process's own seed, which is
    another one where the config sets none.
    """
    if sampler_seed is not None and sampling_seed(dataloader) is not None:
        _find_sampler(dataloader).seed = sampler_seed
    init_function = dataloader.worker_init_fn
    if isinstance(init_function, partial) and 'seed' in init_function.keywords:
        dataloader.worker_init_fn = partial(init_function, seed=seed)


def _find_sampler(dataloader: DataLoader) -> Any:
    """The dataloader's own, also where nothing is batched, or that inside its batch sampler."""
    if hasattr(dataloader.sampler, 'seed'):
        return dataloader.sampler
    return getattr(dataloader.batch_sampler, 'sampler', None)


@FUNCTIONS.register_module()
def seed_worker_per_epoch(worker_id: int) -> None:
    """Give every worker of every rank and epoch random numbers of its own.

    mmengine's own function seeds the workers alike each time they are started, so without
    persistent workers the same sequence of augmentations returns every epoch. torch seeds them
    from a number that the training process draws per epoch, which an exact resume restores, and
    from the worker's; the rank is added here, because all ranks draw the same number. Set with
    `train_dataloader = dict(worker_init_fn=dict(type='seed_worker_per_epoch'))`.
    """
    entropy = np.random.SeedSequence((torch.initial_seed(), get_rank()))
    seed = int(entropy.generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
