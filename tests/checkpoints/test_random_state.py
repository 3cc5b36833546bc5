"""Capturing and restoring the states of the random generators."""

import io
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.dataset import DefaultSampler
from torch.utils.data import BatchSampler, DataLoader

from cmt_bias.checkpoints.resume_state import (
    capture_random_state,
    restore_random_state,
    seeded_sampler,
    set_sampling_seed,
)


def draw() -> list[float]:
    """Numbers of every kind that keeps something in its generator between calls."""
    numbers = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]
    return [*numbers, np.random.randint(1 << 30), *torch.rand(3).tolist(), torch.randn(()).item()]


@settings(derandomize=True, max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), draws_before=st.integers(0, 5))
def test_restored_generators_repeat_their_numbers(seed: int, draws_before: int):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for _ in range(draws_before):
        draw()
    state = capture_random_state()
    expected = [draw() for _ in range(3)]
    restore_random_state(state)
    assert [draw() for _ in range(3)] == expected


def test_captured_state_goes_through_the_restricted_unpickler():
    random.gauss(0, 1)
    state = capture_random_state()
    expected = draw()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    restore_random_state(torch.load(file, weights_only=True))
    assert draw() == expected


def test_capturing_draws_nothing():
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    capture_random_state()
    assert torch.rand(()) == expected


@pytest.mark.parametrize('batching', ['batches', 'single samples', 'batch sampler'])
def test_seed_of_the_sampler_is_read_and_set_however_samples_are_batched(batching):
    sampler = DefaultSampler(range(4), seed=7)
    settings = {
        'batches': dict(sampler=sampler, batch_size=2),
        'single samples': dict(sampler=sampler, batch_size=None),
        'batch sampler': dict(batch_sampler=BatchSampler(sampler, 2, drop_last=True)),
    }
    dataloader = DataLoader(range(4), **settings[batching])
    assert seeded_sampler(dataloader) is sampler
    set_sampling_seed(dataloader, 99, seed=0)
    assert sampler.seed == 99


def test_a_dataloader_without_a_seeded_sampler_is_left_alone():
    dataloader = DataLoader(range(4))
    set_sampling_seed(dataloader, 99, seed=0)
    assert seeded_sampler(dataloader) is None
