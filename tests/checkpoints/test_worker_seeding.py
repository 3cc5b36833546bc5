"""Random numbers of data-loading workers, with mmengine's seeding and ours."""

import random
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.dataset import worker_init_fn
from torch.utils.data import DataLoader, Dataset

from cmt_bias.checkpoints import resume_state
from cmt_bias.checkpoints.resume_state import seed_worker_per_epoch


class RandomNumbers(Dataset):
    """Each sample is a number from each of the three global generators."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])


def draw_two_epochs(seed_worker: Callable[[int], None]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    loader = DataLoader(RandomNumbers(), num_workers=2, worker_init_fn=seed_worker)
    first, second = (torch.cat(list(loader)) for _ in range(2))
    return first, second


def test_every_epoch_and_worker_draws_numbers_of_its_own():
    first, second = draw_two_epochs(seed_worker_per_epoch)
    assert torch.cat([first, second]).unique().numel() == 2 * first.numel()


def test_mmengine_draws_the_same_numbers_in_every_epoch():
    """The reason for our function; should mmengine change, ours is not needed any more."""
    first, second = draw_two_epochs(partial(worker_init_fn, num_workers=2, rank=0, seed=0))
    assert torch.equal(first, second)


def test_numbers_follow_from_the_seed_of_the_training_process():
    assert torch.equal(
        draw_two_epochs(seed_worker_per_epoch)[1], draw_two_epochs(seed_worker_per_epoch)[1]
    )


def test_ranks_draw_different_numbers(monkeypatch: pytest.MonkeyPatch):
    draws = []
    for rank in range(2):
        monkeypatch.setattr(resume_state, 'get_rank', lambda rank=rank: rank)
        torch.manual_seed(0)
        seed_worker_per_epoch(0)
        draws.append([random.random(), np.random.rand(), torch.rand(()).item()])
    assert all(a != b for a, b in zip(*draws, strict=True))
