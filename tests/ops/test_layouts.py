"""Tensors of any strides, and inputs that are wrong."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cmt_bias.ops import TokenLayout, WindowedBias, biased_attention, window_attention

from .cases import Case, random_case

orders = st.permutations([0, 1, 2, 3])
steps = st.tuples(*[st.integers(1, 2)] * 4)


def laid_out(tensor: Tensor, order: list[int], step: tuple[int, ...], offset: int) -> Tensor:
    """The same numbers with the axes in another order in memory, gaps, and a start after it."""
    sizes = [tensor.shape[axis] * step[axis] for axis in order]
    flat = torch.full((offset + torch.Size(sizes).numel(),), torch.nan, dtype=tensor.dtype)
    inverse = [order.index(axis) for axis in range(4)]
    view = flat[offset:].view(sizes).permute(inverse)
    view = view[tuple(slice(None, None, s) for s in step)]
    return view.copy_(tensor)


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    orders=st.tuples(*[orders] * 4),
    steps=st.tuples(*[steps] * 4),
    offset=st.integers(0, 3),
    router=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_any_order_of_axes_and_any_gaps(seed, batch, heads, orders, steps, offset, router, dtype):
    size = None if router else 2.0
    case = random_case(seed, batch=batch, heads=heads, strength_size=size).to(dtype)
    names = ('query', 'key', 'value', 'grad')
    changed = {
        name: laid_out(getattr(case, name), order, step, offset)
        for name, order, step in zip(names, orders, steps, strict=True)
    }
    assert_same(replace(case, **changed), case)


def assert_same(actual: Case, expected: Case) -> None:
    found, wanted = actual.run('auto'), expected.run('auto')
    for name, tensor in wanted.items():
        torch.testing.assert_close(
            found[name], tensor, msg=lambda text, name=name: f'{name} {text}'
        )


@pytest.mark.parametrize('router', [False, True])
def test_keys_of_a_conv_map(router):
    """``(B, C, H, W)``, flattened and transposed: neighbouring channels lie far apart."""
    case = random_case(0, TokenLayout((6, 7)), batch=1, strength_size=None if router else 2.0)
    maps = torch.randn(1, 16, 6, 7)
    tokens = maps.flatten(2).transpose(1, 2).unflatten(-1, (2, 8)).transpose(1, 2)
    assert not tokens.is_contiguous()
    case = replace(case, key=tokens, value=tokens)
    assert_same(case, replace(case, key=tokens.contiguous(), value=tokens.contiguous()))


@pytest.mark.parametrize('router', [False, True])
@pytest.mark.parametrize('axis', [0, 1, 2])
def test_expanded_tensors(router, axis):
    """One token, head or sample that stands for all has a stride of 0."""
    case = random_case(0, strength_size=None if router else 2.0)
    expanded = {
        name: getattr(case, name).narrow(axis, 0, 1).expand_as(getattr(case, name))
        for name in ('query', 'key', 'value', 'grad')
    }
    case = replace(case, **expanded)
    assert_same(case, replace(case, **{name: t.contiguous() for name, t in expanded.items()}))


def test_strength_and_cells_of_any_strides():
    case = random_case(0)
    strength = torch.randn(2, 2, 11).permute(1, 2, 0)
    cells = case.windows.cells.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    changed = replace(case, strength=strength, windows=replace(case.windows, cells=cells))
    assert_same(changed, replace(case, strength=strength.contiguous()))


def wrong(case: Case, **changes) -> Case:
    windows = {key: changes.pop(key) for key in ('cells', 'order', 'layout') if key in changes}
    return replace(case, windows=replace(case.windows, **windows), **changes)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(key=torch.zeros(2, 2, 82, 4)), r'^key must be .* \(2, 2, 82, 8\).* 82, 4'),
        (dict(query=torch.zeros(2, 11, 8)), r'query must be .* \(B, H, Q, D\), got .* 11, 8\)'),
        (dict(query=torch.zeros(2, 2, 11, 8).int()), 'query must be floating'),
        (dict(query=torch.zeros(3, 2, 11, 8)), r'^key must be .* \(3, 2, 82, 8\)'),
        (dict(query=torch.zeros(2, 2, 11, 4)), r'^key must be .* \(2, 2, 82, 4\)'),
        (dict(value=torch.zeros(2, 2, 82, 8).half()), r'^value must be torch.float32 .*float16'),
        (dict(layout=TokenLayout((6, 7))), r'^key must be .* \(2, 2, 42, 8\).* 82, 8\)'),
        (dict(cells=torch.zeros(2, 11, 2, 2, dtype=torch.int32)), r'^cells must .*\(2, 11, 3, 2'),
        (dict(cells=torch.zeros(2, 11, 3, 2)), r'^cells must be torch.int32 .* got torch.float32'),
        (dict(cells=torch.zeros(2, 5, 3, 2, dtype=torch.int32)), r'^cells must be torch.int32'),
        (dict(order=torch.zeros(2, 5, dtype=torch.int32)), r'^order must be .* \(2, 11\)'),
        (dict(order=torch.zeros(2, 11, dtype=torch.int64)), r'^order must be torch.int32'),
        (dict(strength=torch.zeros(2, 11)), r'^strength must be .* \(2, 11, 2\)'),
        (dict(strength=torch.zeros(2, 11, 2, dtype=torch.int64)), r'^strength .* got torch.int64'),
        (dict(key=torch.zeros(2, 2, 82, 8, device='meta')), r'^key must be .* cpu.* on meta'),
    ],
)
def test_inputs_that_do_not_agree_are_refused(changes, message):
    case = wrong(random_case(0), **changes)
    bias = WindowedBias(case.windows, case.strength)
    with pytest.raises(ValueError, match=message):
        biased_attention(case.query, case.key, case.value, bias)
    if 'strength' not in changes:
        with pytest.raises(ValueError, match=message):
            window_attention(case.query, case.key, case.value, case.windows)


@given(seed=st.integers(0, 1000), router=st.booleans())
def test_cells_far_outside_of_their_map_are_windows_without_keys(seed, router):
    case = random_case(seed, strength_size=None if router else 2.0)
    generator = torch.Generator().manual_seed(seed)
    far = torch.tensor([-(2**31), -(2**20), -100, 100, 2**31 - 1], dtype=torch.int64)
    case.windows.cells[:] = far[torch.randint(0, 5, case.windows.cells.shape, generator=generator)]
    expected = case.to(torch.float64).run('by definition')
    for name, tensor in case.to(torch.float64).run('auto').items():
        torch.testing.assert_close(tensor, expected[name])
