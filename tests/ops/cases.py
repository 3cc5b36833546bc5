"""Inputs of attention with a bias, random or of a kind, and how exact its results are."""

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from cmt_bias.ops import (
    NOT_SEEN,
    QueryWindows,
    TokenLayout,
    Window,
    WindowedBias,
    biased_attention,
    dense_bias,
    window_attention,
)
from cmt_bias.ops.geometry import AttentionInputs

sides = st.tuples(st.integers(1, 9), st.integers(1, 9))
layouts = st.builds(TokenLayout, bev_shape=sides) | st.builds(
    TokenLayout, bev_shape=st.none() | sides, num_views=st.integers(1, 4), view_shape=sides
)
window = st.builds(
    Window,
    radius=st.none() | st.integers(0, 12),
    sigma=st.none() | st.sampled_from([0.1, 1.0, 3.0]),
)
shapes = st.tuples(window, window)


@dataclass(frozen=True)
class Case:
    """Inputs of the operator and the gradient of its output, in float32.

    Without a strength: attention to the keys in windows alone.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    windows: QueryWindows
    strength: Tensor | None
    grad: Tensor

    def to(self, dtype: torch.dtype) -> 'Case':
        """The case in another type; the strength is never in half precision."""
        names = ('query', 'key', 'value', 'grad')
        tensors = {name: getattr(self, name).to(dtype) for name in names}
        if self.strength is not None:
            tensors['strength'] = self.strength.to(torch.promote_types(dtype, torch.float32))
        return replace(self, **tensors)

    def on(self, device: str) -> 'Case':
        """The case on another device."""
        names = ('query', 'key', 'value', 'grad', 'strength')
        tensors = {name: getattr(self, name) for name in names}
        moved = {name: None if t is None else t.to(device) for name, t in tensors.items()}
        names = ('cells', 'order')
        on_device = {name: getattr(self.windows, name).to(device) for name in names}
        return replace(self, **moved, windows=replace(self.windows, **on_device))

    def inputs(self) -> AttentionInputs:
        """What a backend gets."""
        tokens = (t.transpose(1, 2).contiguous() for t in (self.query, self.key, self.value))
        windows, scale = self.windows, self.query.shape[-1] ** -0.5
        geometry = windows.cells, self.strength, windows.order
        return AttentionInputs(*tokens, *geometry, *AttentionInputs.numbers_of(windows), scale)

    def attend(self, query, key, value, strength, backend: str) -> Tensor:
        """The operator; ``'by definition'``: softmax of all logits with the dense bias."""
        if backend == 'by definition':
            logits = query @ key.mT * query.shape[-1] ** -0.5
            inside = self.windows.to_mask().unsqueeze(1)
            if strength is not None:
                logits = logits + dense_bias(WindowedBias(self.windows, strength)).unsqueeze(1)
                return logits.softmax(-1) @ value
            lonely = ~inside.any(-1, keepdim=True)
            share = logits.masked_fill(~inside & ~lonely, -torch.inf).softmax(-1)
            return share.masked_fill(lonely, 0) @ value
        if strength is None:
            return window_attention(query, key, value, self.windows, backend=backend)
        bias = WindowedBias(self.windows, strength)
        return biased_attention(query, key, value, bias, backend=backend)

    def run(self, backend: str) -> dict[str, Tensor]:
        """Output and all gradients."""
        names = ('query', 'key', 'value', 'strength')
        inputs = {name: getattr(self, name) for name in names}
        inputs = {
            name: None if t is None else t.detach().requires_grad_() for name, t in inputs.items()
        }
        output = self.attend(**inputs, backend=backend)
        wanted = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        grads = torch.autograd.grad(output, list(wanted.values()), self.grad)
        return {'output': output.detach(), **dict(zip(wanted, grads, strict=True))}


def without_bias_by_torch(case: Case) -> dict[str, Tensor]:
    """Torch's own attention without a bias: output and gradients."""
    names = ('query', 'key', 'value')
    inputs = [getattr(case, name).detach().requires_grad_() for name in names]
    output = torch.nn.functional.scaled_dot_product_attention(*inputs)
    grads = torch.autograd.grad(output, inputs, case.grad)
    return {'output': output.detach(), **dict(zip(names, grads, strict=True))}


def random_tokens(
    generator: torch.Generator, batch: int, heads: int, tokens: int, channels: int = 8
) -> Tensor:
    """``(B, H, N, D)`` with the heads of a token next to each other, as projections leave them."""
    return torch.randn(batch, tokens, heads, channels, generator=generator).transpose(1, 2)


def random_case(
    seed: int = 0,
    layout: TokenLayout = TokenLayout((6, 7), 2, (4, 5)),  # noqa: B008 (it is frozen)
    shapes: tuple[Window, Window] = (Window(1), Window(2)),
    batch: int = 2,
    heads: int = 2,
    queries: int = 11,
    channels: int = 8,
    strength_size: float | None = 3.0,
    logit_size: float = 1.0,
    seen: float = 0.5,
) -> Case:
    """Queries at random cells; each sees a map with a probability of ``seen``."""
    generator = torch.Generator().manual_seed(seed)
    cells = [
        torch.stack(
            [
                torch.randint(0, size, (batch, queries), generator=generator)
                for size in (segment.rows, segment.columns)
            ],
            dim=-1,
        )
        for segment in layout.segments
    ]
    found = torch.stack(cells, dim=2).int()
    hidden = torch.rand(found.shape[:3], generator=generator) >= seen
    found[..., 0].masked_fill_(hidden, NOT_SEEN)
    strength = torch.rand(batch, queries, 2, generator=generator) * 2 - 1
    tokens = [queries, layout.num_tokens, layout.num_tokens, queries]
    query, key, value, grad = (
        random_tokens(generator, batch, heads, count, channels) for count in tokens
    )
    return Case(
        query=query * logit_size,
        key=key,
        value=value,
        windows=QueryWindows(layout, found, shapes).sorted(),
        strength=None if strength_size is None else strength * strength_size,
        grad=grad,
    )


def errors(
    actual: dict[str, Tensor], expected: dict[str, Tensor], grad: Tensor
) -> dict[str, float]:
    """Largest error of the output, by its largest value above 1; relative error of each gradient.

    Where attention has all but one choice, gradients cancel to nothing: then the error counts in
    relation to what cancels, which is as large as the gradient of the output.
    """
    floor = 0.1 * grad.double().norm().item()
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


def assert_exact(case: Case, backend: str) -> None:
    """In float64 to its last digits; in float32 to 1e-6 and 1e-5, widened for large logits."""
    if not case.query.numel():
        assert case.run(backend)['output'].shape == case.query.shape
        return
    expected = case.to(torch.float64).run('by definition')
    found = case.to(torch.float64).run(backend)
    for name, error in errors(found, expected, case.grad).items():
        assert error < 1e-10, f'{name} in float64: {error:.1e}'
    assert_exact_in_float32(case, backend, expected)


def assert_exact_in_float32(case: Case, backend: str, expected: dict[str, Tensor]) -> None:
    """The second half of :func:`assert_exact`."""
    # A logit is known to its own size times the precision of float32, and so are its powers; the
    # kernel and the correction each compute it.
    largest = (case.query @ case.key.mT).abs().max().item() * case.query.shape[-1] ** -0.5
    largest += 0 if case.strength is None else case.strength.abs().max().item()
    widening = max(1.0, largest / 5)
    for name, error in errors(case.run(backend), expected, case.grad).items():
        bar = 1e-6 if name == 'output' else 1e-5
        assert error < bar * widening, f'{name}: {error:.1e}, logits up to {largest:.0f}'
