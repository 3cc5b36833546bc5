"""Every backend that runs here against the definition in float64."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmt_bias.ops import TokenLayout, Window

from .cases import (
    assert_exact,
    layouts,
    random_case,
    relative_errors,
    shapes,
    without_bias_by_torch,
)

BACKENDS = ('cpu', 'dense')
NAMES = ('output', 'query', 'key', 'value')
both = pytest.mark.parametrize('backend', BACKENDS)


@both
@given(
    seed=st.integers(0, 1000),
    layout=layouts,
    shapes=shapes,
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    queries=st.integers(1, 40),
    strength_size=st.sampled_from([0.0, 0.1, 2.0, 30.0]),
    seen=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_any_geometry_and_strength(
    backend, seed, layout, shapes, batch, heads, queries, strength_size, seen
):
    assert_exact(
        random_case(
            seed, layout, shapes, batch, heads, queries, strength_size=strength_size, seen=seen
        ),
        backend,
    )


@both
@given(
    seed=st.integers(0, 1000),
    layout=layouts,
    radius=st.integers(0, 5),
    queries=st.integers(1, 40),
    seen=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_attention_to_windows_alone(backend, seed, layout, radius, queries, seen):
    window = Window(radius), Window(radius + 1, sigma=0.1)  # the profile has no effect
    case = random_case(seed, layout, window, queries=queries, strength_size=None, seen=seen)
    assert_exact(case, backend)


@given(seed=st.integers(0, 1000), layout=layouts, lidar=st.booleans())
def test_attention_to_a_window_and_a_whole_modality(seed, layout, lidar):
    window = (Window(None), Window(1)) if lidar else (Window(1), Window(None))
    assert_exact(random_case(seed, layout, window, strength_size=None), 'auto')


@both
@pytest.mark.parametrize('channels', [5, 16, 32, 40, 64])
def test_any_number_of_channels(backend, channels):
    for heads in (1, 3, 8):
        assert_exact(random_case(channels, heads=heads, channels=channels), backend)


@both
@given(seed=st.integers(0, 1000), strength_size=st.sampled_from([1.0, 30.0]))
def test_scores_up_to_100(backend, seed, strength_size):
    case = random_case(seed, strength_size=strength_size)
    scores = (case.query @ case.key.mT).abs().max() * 8**-0.5
    assert_exact(replace(case, query=case.query * (100 / scores)), backend)


@both
@given(seed=st.integers(0, 1000), strength=st.sampled_from([-30.0, -5.0, -1.0, 30.0]))
def test_all_keys_in_the_window(backend, seed, strength):
    """A strongly negative bias leaves next to nothing of the unbiased output."""
    layout = TokenLayout((3, 3), 1, (3, 4))
    case = random_case(seed, layout, (Window(3), Window(4)), queries=70, seen=1.0)
    case.strength[:] = strength
    case.windows.cells[:, ::3, 0, 0] = 4  # for these the last row only
    assert_exact(case, backend)


@both
@given(
    seed=st.integers(0, 1000),
    strength=st.sampled_from([-300.0, -100.0, 85.0, 100.0, 300.0, 1000.0]),
)
def test_strengths_whose_exponential_is_no_float(backend, seed, strength):
    case = random_case(seed, queries=20)
    case.strength[:] = strength
    case.strength[:, ::4] = 1.0
    assert_exact(case, backend)


@both
def test_one_cell_maps_and_no_queries(backend):
    layout = TokenLayout((1, 1), 2, (1, 1))
    assert_exact(random_case(0, layout), backend)
    backend = 'auto' if backend == 'cpu' else backend  # torch's kernel takes no empty tensors
    assert_exact(random_case(0, layout, queries=0), backend)
    assert_exact(random_case(0, layout, queries=0, strength_size=None), backend)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('whole', [False, True])
def test_first_derivatives_by_finite_differences(backend, whole):
    shapes = (Window(1, 1.0), Window(None if whole else 1))
    case = random_case(3, TokenLayout((3, 2), 2, (2, 2)), shapes, heads=1, queries=3, channels=2)
    case = case.to(torch.float64)
    names = ('query', 'key', 'value', 'strength')
    inputs = [getattr(case, name).contiguous().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(lambda *inputs: case.attend(*inputs, backend), inputs)


@both
@pytest.mark.parametrize('number', [float('nan'), float('inf'), -float('inf')])
def test_nan_and_infinity_come_out_as_from_the_definition(backend, number):
    for name in ('query', 'key', 'value'):
        assert_as_defined_with(number, name, random_case(0), backend)


@pytest.mark.cpu_backend
@pytest.mark.parametrize('number', [float('nan'), float('inf'), -float('inf')])
def test_nan_and_infinity_outside_of_windows_alone_do_not_count(number):
    """In the definition a value that does not count makes 0 * inf."""
    for name in ('query', 'key'):
        assert_as_defined_with(number, name, random_case(0, strength_size=None), 'cpu')


def assert_as_defined_with(number, name, case, backend):
    getattr(case, name)[0, 0, 3, 2] = number
    with torch.no_grad():
        inputs = (case.query, case.key, case.value, case.strength)
        actual, expected = case.attend(*inputs, backend), case.attend(*inputs, 'by definition')
    torch.testing.assert_close(actual, expected, equal_nan=True)


@both
@pytest.mark.parametrize('strength_size', [3.0, None])
@pytest.mark.parametrize('wanted', [('query',), ('key',), ('value', 'strength'), ('strength',)])
def test_only_some_inputs_require_gradients(backend, strength_size, wanted):
    case = random_case(1, strength_size=strength_size)
    wanted = [name for name in wanted if getattr(case, name) is not None]
    if not wanted:
        return
    names = ('query', 'key', 'value', 'strength')
    inputs = {name: getattr(case, name) for name in names}
    for name in wanted:
        inputs[name] = inputs[name].detach().requires_grad_()
    output = case.attend(**inputs, backend=backend)
    grads = torch.autograd.grad(output, [inputs[name] for name in wanted], case.grad)
    expected = case.run(backend)
    for name, grad in zip(wanted, grads, strict=True):
        assert torch.equal(grad, expected[name])


@both
@pytest.mark.parametrize('strength_size', [3.0, None])
def test_same_result_every_time(backend, strength_size):
    case = random_case(5, queries=50, strength_size=strength_size)
    first, second = case.run(backend), case.run(backend)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize('threads', [1, 3, 40])
@pytest.mark.parametrize('strength_size', [3.0, None])
@pytest.mark.cpu_backend
def test_same_result_with_any_number_of_threads(threads, strength_size):
    case = random_case(5, batch=2, queries=50, heads=3, strength_size=strength_size)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = case.run('cpu')
        torch.set_num_threads(threads)
        assert_exact(case, 'cpu')
        for name, tensor in case.run('cpu').items():
            assert torch.equal(tensor, alone[name]), name
    finally:
        torch.set_num_threads(before)


@both
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@given(seed=st.integers(0, 1000), strength_size=st.sampled_from([0.1, 1.0, 5.0]))
def test_half_precision_is_as_exact_as_without_a_bias(backend, dtype, seed, strength_size):
    """Errors against float64 on the same rounded inputs; without a bias by torch and by ours."""
    layout = TokenLayout((10, 11), 2, (5, 9))
    case = random_case(seed, layout, queries=40, strength_size=strength_size).to(dtype)
    exact = case.to(torch.float64)
    found = relative_errors(case.run(backend), exact.run('by definition'))
    nothing = torch.zeros_like(case.strength)
    by_definition = replace(exact, strength=nothing.double()).run('by definition')
    for plain in (without_bias_by_torch(case), replace(case, strength=nothing).run('auto')):
        bars = relative_errors(plain, {name: by_definition[name] for name in NAMES})
        for name in NAMES:
            assert found[name] <= 2 * bars[name], name
    assert found['strength'] < 2 * torch.finfo(dtype).eps
