"""Biased attention: the fast backend against the dense one in float64."""

import logging
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cmt_bias.ops import operator, plan_windows, windowed_bias_attention


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


def random_tokens(generator: torch.Generator, batch: int, heads: int, tokens: int) -> Tensor:
    """``(B, H, N, 8)`` with the heads of a token next to each other, as projections leave them."""
    return torch.randn(batch, tokens, heads, 8, generator=generator).transpose(1, 2)


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
    """Largest error of the output, relative error of each gradient.

    Where attention has all but one choice, gradients cancel to nothing: then the error counts in
    relation to what cancels, which is as large as the gradient of the output.
    """
    floor = 0.1 * grad.norm().item()
    found = {'output': (actual['output'].double() - expected['output']).abs().max().item()}
    for name in expected.keys() - {'output'}:
        distance = (actual[name].double() - expected[name]).norm()
        found[name] = (distance / expected[name].norm().clamp(min=floor)).item()
    return found


def assert_exact(case: Case) -> None:
    """In float64 to its last digits; in float32 to the bars, widened for large logits."""
    expected = case.to(torch.float64).run('dense')
    for name, error in errors(case.to(torch.float64).run('flash'), expected, case.grad).items():
        assert error < 1e-10, name
    # a logit is known to its own size times the precision of float32, and so are its powers
    largest = (case.query @ case.key.mT).abs().max().item() * case.query.shape[-1] ** -0.5
    largest += sum(
        values.abs().max().item()
        for values in (case.bias, *(values for _, _, values in case.segments))
        if values.numel()
    )
    widening = max(1.0, largest / 10)
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
