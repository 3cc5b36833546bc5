"""GridMask against the released class and against Pillow's rotation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cmt_bias.cmt.grid_mask import Grid, GridMask, covered_pixels, stripe_indicator

GOLDENS = Path(__file__).parents[1] / 'data' / 'released_backbone' / 'grid_mask.npz'
RELEASED_ARGUMENTS = {
    'released': dict(use_h=True, use_w=True, rotate=1, offset=False, ratio=0.5, mode=1, prob=0.7),
    'noise': dict(use_h=True, use_w=False, rotate=1, offset=True, ratio=0.3, mode=0, prob=1.0),
    'rotated': dict(use_h=True, use_w=True, rotate=90, offset=False, ratio=0.6, mode=1, prob=1.0),
}


@pytest.mark.parametrize('name', RELEASED_ARGUMENTS)
def test_same_seed_gives_the_grids_of_the_released_class(name):
    grid_mask = GridMask(**RELEASED_ARGUMENTS[name]).train()
    with np.load(GOLDENS) as goldens:
        expected = torch.from_numpy(goldens[name])
    np.random.seed(11)
    for grid in expected:
        torch.testing.assert_close(grid_mask(torch.ones(2, 3, *grid.shape))[1, 2], grid)


def comes_from_an_edge(height: int, width: int, angle: int) -> np.ndarray:
    """Pixels taken from an edge between two, within Pillow's 16-bit fixed-point arithmetic."""
    canvas = np.array([int(1.5 * height), int(1.5 * width)])
    size = np.array([height, width])
    centres = np.indices(size).transpose(1, 2, 0) + 0.5 + (canvas - size) // 2 - canvas / 2
    turn = np.exp(1j * np.radians(angle)) * (centres[..., 1] + 1j * centres[..., 0])
    source = np.stack([turn.imag, turn.real], axis=-1) + canvas / 2
    return (np.abs(source - np.round(source)) < 2e-3).any(axis=-1)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    height=st.integers(3, 40),
    width=st.integers(2, 40),
    angle=st.integers(0, 359),
    data=st.data(),
)
def test_rotated_grid_equals_pillow_rotating_a_painted_canvas(height, width, angle, data):
    canvas = np.ones((int(1.5 * height), int(1.5 * width)), np.uint8)
    period = data.draw(st.integers(2, height))
    stripe = data.draw(st.integers(1, period - 1))
    starts = data.draw(st.tuples(st.integers(0, period - 1), st.integers(0, period - 1)))
    for axis, start in enumerate(starts):
        for i in range(canvas.shape[axis] // period):
            canvas.swapaxes(0, axis)[start + i * period : start + i * period + stripe] = 0
    rotated = np.asarray(Image.fromarray(canvas).rotate(angle))
    top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2
    expected = rotated[top : top + height, left : left + width] == 0

    grid = Grid(period, stripe, *starts, angle)
    covered = covered_pixels(grid, height, width, True, True, torch.device('cpu')).numpy()
    assert not ((covered != expected) & ~comes_from_an_edge(height, width, angle)).any()


@settings(derandomize=True, max_examples=100, deadline=None)
@given(data=st.data(), end=st.integers(2, 60))
def test_stripes_equal_a_painted_axis(data, end):
    period = data.draw(st.integers(2, end))
    width = data.draw(st.integers(1, period - 1))
    start = data.draw(st.integers(0, period - 1))
    painted = torch.zeros(end, dtype=torch.bool)
    for i in range(end // period):
        painted[start + i * period : start + i * period + width] = True
    assert torch.equal(stripe_indicator(torch.arange(end), period, width, start, end), painted)


def test_eval_mode_returns_the_input_and_draws_nothing():
    grid_mask = GridMask(True, True, prob=1.0).eval()
    images = torch.rand(2, 3, 16, 16)
    np.random.seed(5)
    assert grid_mask(images) is images
    expected = np.random.RandomState(5).rand()
    assert np.random.rand() == expected


def test_probability_zero_leaves_images_alone_and_set_prob_scales_it():
    grid_mask = GridMask(True, True, prob=0.8).train()
    grid_mask.set_prob(0, 10)
    images = torch.rand(2, 3, 16, 16)
    assert all(grid_mask(images) is images for _ in range(20))
    grid_mask.set_prob(5, 10)
    assert grid_mask.prob == pytest.approx(0.4)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('offset', [False, True])
def test_dtype_and_kept_pixels_are_those_of_the_input(dtype, offset):
    grid_mask = GridMask(True, True, mode=1, offset=offset).train()
    images = torch.rand(2, 3, 24, 32).to(dtype) + 2
    np.random.seed(0)
    covered = grid_mask(images)
    assert covered.dtype == dtype
    kept = covered == images
    assert 0 < kept.float().mean() < 1
    assert covered[~kept].abs().max() <= (1 if offset else 0)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'mode': 2}, 'mode=2'),
        ({'rotate': 0}, 'rotate=0'),
        ({'ratio': 1.5}, 'ratio=1.5'),
        ({'prob': -0.1}, 'prob=-0.1'),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GridMask(True, True, **arguments)


def test_images_too_small_for_a_grid_are_refused():
    with pytest.raises(ValueError, match='height 2'):
        GridMask(True, True).train()(torch.ones(1, 3, 2, 8))
