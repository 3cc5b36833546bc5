"""Seeds of the processes that load data."""

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import FUNCTIONS


@FUNCTIONS.register_module()
def seed_worker_per_epoch(worker_id: int) -> None:
    """Give every worker of every rank and epoch random numbers of its own.

    mmengine's own function seeds the workers alike each time they are started, so without
    persistent workers the same sequence of augmentations returns every epoch. torch seeds them
    from a number that the training process draws per epoch, which an exact resume restores; this
    function adds the rank to it, because all ranks draw the same number. Set in a config with
    `train_dataloader = dict(worker_init_fn=dict(type='seed_worker_per_epoch'))`.

    Args:
        worker_id: Number of the worker; torch's seed already depends on it.
    """
    entropy = np.random.SeedSequence((torch.initial_seed(), get_rank()))
    seed = int(entropy.generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
