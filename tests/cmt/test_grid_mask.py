"""GridMask against the released class and against a painted canvas."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmt_bias.cmt.grid_mask import GridMask

GOLDENS = Path(__file__).parents[1] / 'data' / 'released_backbone' / 'grid_mask.npz'


def test_same_seed_gives_the_grids_of_the_released_class():
    grid_mask = GridMask().train()
    with np.load(GOLDENS) as goldens:
        expected = torch.from_numpy(goldens['released'])
    np.random.seed(11)
    for grid in expected:
        torch.testing.assert_close(grid_mask(torch.ones(2, 3, *grid.shape))[1, 2], grid)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    height=st.integers(3, 40),
    width=st.integers(2, 40),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_a_grid_is_the_middle_of_a_painted_canvas(height, width, ratio, seed):
    draw = np.random.RandomState(seed)
    draw.rand()
    period = draw.randint(2, height)
    stripe = min(max(int(period * ratio + 0.5), 1), period - 1)
    canvas = torch.zeros(int(1.5 * height), int(1.5 * width))
    for axis in (0, 1):
        start = draw.randint(period)
        for number in range(canvas.shape[axis] // period):
            canvas.transpose(0, axis)[start + number * period :][:stripe] = 1
    top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2

    np.random.seed(seed)
    images = GridMask(ratio, prob=1.0).train()(torch.ones(1, 1, height, width))
    assert torch.equal(images[0, 0], canvas[top : top + height, left : left + width])


@pytest.mark.parametrize('prob', [1.0, 0.0])
def test_eval_mode_and_probability_zero_leave_the_input_alone(prob):
    grid_mask = GridMask(prob=prob).train(not prob)
    images = torch.rand(2, 3, 16, 16)
    assert all(grid_mask(images) is images for _ in range(20))


def test_eval_mode_draws_nothing():
    np.random.seed(5)
    GridMask(prob=1.0).eval()(torch.rand(2, 3, 16, 16))
    assert np.random.rand() == np.random.RandomState(5).rand()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_kept_pixels_are_those_of_the_input(dtype):
    images = torch.rand(2, 3, 24, 32).to(dtype) + 2
    np.random.seed(0)
    covered = GridMask(prob=1.0).train()(images)
    assert covered.dtype == dtype
    kept = covered == images
    assert 0 < kept.float().mean() < 1
    assert covered[~kept].abs().max() == 0
