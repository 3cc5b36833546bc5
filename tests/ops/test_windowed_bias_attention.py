"""Biased attention: the fast backend against the dense one in float64."""

import logging
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cmt_bias.ops import flash, flex, operator, plan_windows, windowed_bias_attention

pytestmark = pytest.mark.usefixtures('window_kernel')


@dataclass(frozen=True)
class Case:
    """Inputs of the operator and the gradient of its output, in float32."""

    query: Tensor
    key: Tensor
    value: Tensor
    index: Tensor
    bias: Tensor
    grad: Tensor
    segments: tuple[tuple[int, int, Tensor], ...] = ()

    def to(self, dtype: torch.dtype) -> 'Case':
        bias_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        tensors = {
            name: getattr(self, name).to(dtype) for name in ('query', 'key', 'value', 'grad')
        }
        segments = tuple((a, b, values.to(bias_dtype)) for a, b, values in self.segments)
        return replace(self, **tensors, bias=self.bias.to(bias_dtype), segments=segments)

    def run(self, backend: str) -> dict[str, Tensor]:
        """Output and all gradients."""
        names = ('query', 'key', 'value', 'bias')
        inputs = {name: getattr(self, name).detach().requires_grad_() for name in names}
        values = [values.detach().requires_grad_() for _, _, values in self.segments]
        segments = [(a, b, v) for (a, b, _), v in zip(self.segments, values, strict=True)]
        output = windowed_bias_attention(
            **inputs, index=self.index, segments=segments, backend=backend
        )
        wanted = [*inputs.values(), *values]
        grads = torch.autograd.grad(output, wanted, self.grad, allow_unused=True)
        names = (*names, *(f'segment {number}' for number in range(len(values))))
        filled = [
            torch.zeros_like(tensor) if grad is None else grad
            for tensor, grad in zip(wanted, grads, strict=True)
        ]
        return {'output': output.detach(), **dict(zip(names, filled, strict=True))}


def random_tokens(
    generator: torch.Generator, batch: int, heads: int, tokens: int, channels: int = 8
) -> Tensor:
    """``(B, H, N, D)`` with the heads of a token next to each other, as projections leave them."""
    return torch.randn(batch, tokens, heads, channels, generator=generator).transpose(1, 2)


def random_case(
    seed: int,
    batch: int = 2,
    heads: int = 2,
    queries: int = 11,
    keys: int = 90,
    width: int = 12,
    bias_size: float = 3.0,
    logit_size: float = 1.0,
    with_segments: bool = False,
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(-1, keys, (batch, queries, width), generator=generator)
    segments: tuple[tuple[int, int, Tensor], ...] = ()
    if with_segments:
        ends = sorted(torch.randint(0, keys + 1, (4,), generator=generator).tolist())
        segments = tuple(
            (*bounds, torch.randn(batch, queries, generator=generator) * bias_size / 3)
            for bounds in (ends[2:], ends[:2])
        )
    return Case(
        query=random_tokens(generator, batch, heads, queries) * logit_size,
        key=random_tokens(generator, batch, heads, keys),
        value=random_tokens(generator, batch, heads, keys),
        index=index,
        bias=torch.rand(index.shape, generator=generator) * 2 * bias_size - bias_size,
        grad=random_tokens(generator, batch, heads, queries),
        segments=segments,
    )


def errors(
    actual: dict[str, Tensor], expected: dict[str, Tensor], grad: Tensor
) -> dict[str, float]:
    """Largest error of the output, by its largest value above 1; relative error of each gradient.

    Where attention has all but one choice, gradients cancel to nothing: then the error counts in
    relation to what cancels, which is as large as the gradient of the output.
    """
    floor = 0.1 * grad.norm().item()
    error = (actual['output'].double() - expected['output']).abs().max().item()
    found = {'output': error / max(1.0, expected['output'].abs().max().item())}
    for name in expected.keys() - {'output'}:
        distance = (actual[name].double() - expected[name]).norm()
        found[name] = (distance / expected[name].norm().clamp(min=floor)).item()
    return found


def relative_errors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Relative error of each tensor."""
    return {
        name: ((actual[name].double() - tensor).norm() / tensor.norm()).item()
        for name, tensor in expected.items()
        if tensor.norm() > 0
    }


def assert_exact(case: Case) -> None:
    """In float64 to its last digits; in float32 to the bars, widened for large logits."""
    expected = case.to(torch.float64).run('dense')
    for name, error in errors(case.to(torch.float64).run('flash'), expected, case.grad).items():
        assert error < 1e-10, name
    # A logit is known to its own size times the precision of float32, and so are its powers; the
    # kernel and the correction each compute it.
    largest = (case.query @ case.key.mT).abs().max().item() * case.query.shape[-1] ** -0.5
    largest += sum(
        values.abs().max().item()
        for values in (case.bias, *(values for _, _, values in case.segments))
        if values.numel()
    )
    widening = max(1.0, largest / 5)
    for name, error in errors(case.run('flash'), expected, case.grad).items():
        bar = 1e-6 if name == 'output' else 1e-5
        assert error < bar * widening, f'{name}: {error:.1e}, logits up to {largest:.0f}'


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    queries=st.integers(1, 40),
    keys=st.integers(1, 150),
    width=st.integers(0, 20),
    bias_size=st.sampled_from([0.0, 0.1, 2.0, 30.0]),
    with_segments=st.booleans(),
)
def test_any_indices_and_biases(
    seed, batch, heads, queries, keys, width, bias_size, with_segments
):
    case = random_case(
        seed, batch, heads, queries, keys, width, bias_size, with_segments=with_segments
    )
    assert_exact(case)


def grid_windows(
    generator: torch.Generator, batch: int, queries: int, shape: tuple[int, int], size: int
) -> Tensor:
    """``(B, Q, size^2)`` windows around random cells of a map, cut at its edges."""
    rows, columns = shape
    row = torch.randint(0, rows, (batch, queries, 1, 1), generator=generator)
    column = torch.randint(0, columns, (batch, queries, 1, 1), generator=generator)
    offset = torch.arange(size) - size // 2
    row, column = row + offset[:, None], column + offset
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return torch.where(inside, row * columns + column, -1).flatten(2)


def grid_case(seed: int, bias_size: float = 3.0, **options: int) -> Case:
    """Windows in two maps of 9 x 7 cells; some queries have none in the second."""
    case = random_case(seed, keys=2 * 63, bias_size=bias_size, **options)
    generator = torch.Generator().manual_seed(seed)
    batch, queries = case.index.shape[:2]
    first = grid_windows(generator, batch, queries, (9, 7), 3)
    second = grid_windows(generator, batch, queries, (9, 7), 5)
    used = torch.rand(batch, queries, 1, generator=generator) < 0.7
    index = torch.cat((first, torch.where((second >= 0) & used, second + 63, -1)), dim=-1)
    bias = torch.rand(index.shape, generator=generator) * 2 * bias_size - bias_size
    return replace(case, index=index, bias=bias)


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    queries=st.integers(1, 60),
    bias_size=st.sampled_from([0.5, 30.0]),
)
def test_windows_in_grids(seed, batch, queries, bias_size):
    assert_exact(grid_case(seed, bias_size, batch=batch, queries=queries))


@pytest.mark.parametrize('channels', [5, 16, 32, 64])
@given(seed=st.integers(0, 1000), heads=st.integers(1, 9))
def test_any_number_of_channels_and_heads(channels, seed, heads):
    case = grid_case(seed, heads=heads, queries=40)
    generator = torch.Generator().manual_seed(seed)
    tokens = {
        name: random_tokens(generator, 2, heads, getattr(case, name).shape[2], channels)
        for name in ('query', 'key', 'value', 'grad')
    }
    assert_exact(replace(case, **tokens))


@given(seed=st.integers(0, 1000), bias_size=st.sampled_from([1.0, 30.0]))
def test_scores_up_to_100(seed, bias_size):
    case = random_case(seed, bias_size=bias_size)
    scores = (case.query @ case.key.mT).abs().max() * 8**-0.5
    assert_exact(replace(case, query=case.query * (100 / scores)))


@given(
    seed=st.integers(0, 1000),
    bias=st.sampled_from([-30.0, -5.0, -1.0, 30.0]),
    with_segments=st.booleans(),
)
def test_all_keys_in_the_window(seed, bias, with_segments):
    """A strongly negative bias leaves next to nothing of the unbiased output."""
    case = random_case(seed, queries=70, keys=20, width=20, with_segments=with_segments)
    index = torch.arange(20).expand_as(case.index).clone()
    values = torch.full_like(case.bias, bias)
    index[:, ::3, 0] = -1
    assert_exact(replace(case, index=index, bias=values))


@given(seed=st.integers(0, 1000))
def test_key_named_in_several_windows_gets_the_sum(seed):
    case = grid_case(seed)
    once = case.to(torch.float64)
    half = replace(once, index=once.index.repeat(1, 1, 2), bias=(once.bias / 2).repeat(1, 1, 2))
    for backend in ('dense', 'flash'):
        expected, actual = once.run(backend), half.run(backend)
        torch.testing.assert_close(actual['output'], expected['output'], rtol=1e-10, atol=1e-12)
        width = once.index.shape[-1]
        for part in (actual['bias'][..., :width], actual['bias'][..., width:]):
            torch.testing.assert_close(part, expected['bias'], rtol=1e-9, atol=1e-12)


def test_first_derivatives_by_finite_differences():
    case = random_case(3, heads=1, queries=4, keys=9, width=5, with_segments=True)
    case = case.to(torch.float64)
    values = [values for _, _, values in case.segments]
    inputs = [case.query, case.key, case.value, case.bias, *values]
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    for backend in ('dense', 'flash'):

        def attend(query, key, value, bias, *values, backend=backend):
            segments = [(a, b, v) for (a, b, _), v in zip(case.segments, values, strict=True)]
            return windowed_bias_attention(
                query, key, value, case.index, bias, backend=backend, segments=segments
            )

        assert torch.autograd.gradcheck(attend, inputs)


def test_masked_queries_are_found_and_few():
    """Only those that lose most of their mass take the slow way."""
    small = torch.tensor([[[0.9], [0.2]], [[0.8], [float('nan')]], [[1e13], [0.5]]])
    lost = flash._lost_mass(small.view(3, 2, 1, 1), torch.float32)
    assert lost.tolist() == [[True], [True], [False]]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@given(
    seed=st.integers(0, 1000),
    bias_size=st.sampled_from([0.1, 1.0, 5.0]),
    with_segments=st.booleans(),
)
def test_half_precision_is_as_exact_as_without_a_bias(dtype, seed, bias_size, with_segments):
    """Errors against float64 on the same rounded inputs."""
    case = random_case(
        seed, queries=40, keys=200, bias_size=bias_size, with_segments=with_segments
    ).to(dtype)
    exact = case.to(torch.float64)
    found = relative_errors(case.run('flash'), exact.run('dense'))
    # attention without a bias, through the same kernel
    none = {'index': torch.full_like(case.index, -1), 'segments': ()}
    plain = relative_errors(
        replace(case, **none).run('flash'), replace(exact, **none).run('dense')
    )
    for name in ('output', 'query', 'key', 'value'):
        assert found[name] <= 2 * plain[name], name


def test_autocast_casts_as_for_attention_without_a_bias():
    case = random_case(0)
    bias = case.bias.requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = windowed_bias_attention(
            case.query, case.key, case.value, case.index, bias, backend='flash'
        )
        (grad,) = torch.autograd.grad(output.float().sum(), bias)
    assert output.dtype == torch.bfloat16
    assert grad.dtype == torch.float32
    expected = windowed_bias_attention(
        case.query, case.key, case.value, case.index, bias, backend='dense'
    )
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.05)


def test_same_result_every_time():
    case = grid_case(5, batch=2, queries=50)
    first, second = case.run('flash'), case.run('flash')
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_plan_can_be_shared_and_layout_does_not_matter():
    case = grid_case(5)
    expected = case.run('flash')['output']
    plan = plan_windows(case.index, case.key.shape[2])
    for _ in range(2):
        output = windowed_bias_attention(
            case.query.contiguous(),
            case.key.contiguous(),
            case.value.mT.contiguous().mT,
            case.index,
            case.bias,
            plan=plan,
        )
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize('threads', [1, 3, 40])
def test_any_number_of_threads(threads):
    case = grid_case(5, batch=2, queries=50, heads=3)
    expected = case.to(torch.float64).run('dense')
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        actual = case.to(torch.float64).run('flash')
    finally:
        torch.set_num_threads(before)
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-9, atol=1e-11)


def test_flex_in_inference(monkeypatch):
    # compiling would take most of the time of all these tests
    monkeypatch.setattr(flex, '_kernel', lambda _: flex.torch_flex.flex_attention)
    case = grid_case(7)
    case = replace(case, segments=((0, 30, case.bias[..., 0]), (70, 90, case.bias[..., 1])))
    inputs = [case.query, case.key, case.value, case.index, case.bias]
    expected = windowed_bias_attention(*inputs, backend='dense', segments=case.segments)
    actual = windowed_bias_attention(*inputs, backend='flex', segments=case.segments)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match=r"'flex' cannot run: .* no backward pass on CPU"):
        windowed_bias_attention(inputs[0].requires_grad_(), *inputs[1:], backend='flex')
    with torch.no_grad():
        again = windowed_bias_attention(*inputs, backend='flex', segments=case.segments)
    assert torch.equal(again, actual)
    inputs = [tensor.detach() for tensor in inputs]
    inputs[3] = inputs[3].flip(-1)
    with pytest.raises(RuntimeError, match='not those of windows cut from grids'):
        windowed_bias_attention(*inputs, backend='flex')


def test_backend_that_cannot_run_says_why():
    case = random_case(0)
    inputs = [getattr(case, name) for name in ('query', 'key', 'value', 'index', 'bias')]
    with pytest.raises(ValueError, match=r"unknown backend 'fast'; there are auto, dense"):
        windowed_bias_attention(*inputs, backend='fast')
    empty = [inputs[0][:, :, :0], *inputs[1:3], inputs[3][:, :0], inputs[4][:, :0]]
    with pytest.raises(RuntimeError, match=r"'flash' cannot run: .* empty tensors"):
        windowed_bias_attention(*empty, backend='flash')
    assert windowed_bias_attention(*empty).shape == empty[0].shape


def test_automatic_choice_is_logged_once(caplog, monkeypatch):
    monkeypatch.setattr(operator, '_logged_choices', set())
    case = random_case(0)
    with caplog.at_level(logging.INFO, logger='cmt_bias'):
        for _ in range(2):
            windowed_bias_attention(case.query, case.key, case.value, case.index, case.bias)
    assert [record.getMessage() for record in caplog.records] == [
        "attention with a bias runs on backend 'flash' on cpu"
    ]


def test_second_derivatives_are_refused():
    case = random_case(0)
    query = case.query.requires_grad_()
    output = windowed_bias_attention(query, case.key, case.value, case.index, case.bias)
    with pytest.raises(RuntimeError, match='differentiated once only'):
        torch.autograd.grad(output.sum(), query, create_graph=True)


def test_plan_of_other_indices_is_refused():
    case = random_case(0)
    plan = plan_windows(case.index[:, :5], 90)
    with pytest.raises(ValueError, match=r'the plan is for an index of shape \(2, 5, 12\)'):
        windowed_bias_attention(case.query, case.key, case.value, case.index, case.bias, plan=plan)
