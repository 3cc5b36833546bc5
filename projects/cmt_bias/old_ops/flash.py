"""Plain flash attention, corrected on the keys in the windows.

With ``o0, L0`` the output and log-sum-exp of attention without the windows' bias, ``s`` the scores
and ``b`` the bias of a query's window keys, and ``w_k = exp(b_k) - 1``:

    o = (o0 + sum w_k exp(s_k - L0) v_k) / (1 + sum w_k exp(s_k - L0))
    L = L0 + log(1 + sum w_k exp(s_k - L0))

The flash backward kernel, given this o and L, is right for all keys outside the windows. Those
inside lack the part of their probability that the bias adds, ``w_k exp(s_k - L)``. Scores never
exceed their log-sum-exp, so that all powers are finite in float32 up to biases of about 80.

The denominator above is what the bias leaves of a query's mass. Where it is small, the error of
o0 would be divided by it: such queries, all of whose attention lies in a window with a strongly
negative bias, attend once more, with the bias as a mask.

Shape letters as in :mod:`cmt_bias.ops.window_plan`; H heads, D channels of a head, E entries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .dense import dense_bias
from .flash_kernels import FlashResult
from .segments import (
    JoinedAttention,
    KeyRange,
    Segment,
    attend_ranges,
    attend_ranges_backward,
    find_ranges,
    segment_gradient,
)
from .window_plan import WindowPlan
from .window_rows import (
    WindowGradients,
    WindowRows,
    compute_dtype,
    from_rows,
    refuse_second_derivative,
    to_rows,
)

# Below this denominator a query attends with a mask. In half precision the output of the kernel
# is rounded, so that there is less to lose.
_SMALLEST_DENOMINATOR = 0.5
_SMALLEST_DENOMINATOR_HALF = 0.7
# Queries that attend with a mask at once: bounds the memory of the mask.
_MASKED_QUERIES = 64
# More than any score, and its power still representable: makes probabilities 0.
_LARGE_LOGSUMEXP = 1e4


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: Tensor,
    bias: Tensor,
    scale: float,
    plan: WindowPlan,
    segments: Sequence[Segment] = (),
) -> Tensor:
    """Attention with a bias on window keys; arguments as in the operator."""
    ranges = find_ranges(segments, key.shape[2])
    biases = [values for _, _, values in segments]
    return _FlashWithBias.apply(query, key, value, index, bias, scale, plan, ranges, *biases)


class _FlashWithBias(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        index: Tensor,
        bias: Tensor,
        scale: float,
        plan: WindowPlan,
        ranges: list[KeyRange],
        *biases: Tensor,
    ) -> Tensor:
        """Attend; keeps outputs and log-sum-exps for the backward pass, nothing larger."""
        problem = _Problem(query, key, value, index, bias, biases, scale, plan, ranges)
        solution = _attend(problem)
        ctx.scale, ctx.plan, ctx.ranges, ctx.num_biases = scale, plan, ranges, len(biases)
        ctx.random_states = solution.random_states
        # the segments' gradients need what each range gave by itself
        kept = solution.parts if biases else []
        ctx.save_for_backward(
            *(query, key, value, index, bias, *biases),
            *(solution.output, solution.logsumexp, solution.masked),
            *(tensor for part in kept for tensor in (part.output, part.logsumexp)),
        )
        return solution.output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        """Gradients of query, key, value, bias and the segments' biases."""
        refuse_second_derivative("attention with a bias on backend 'flash'")
        query, key, value, index, bias, *rest = ctx.saved_tensors
        biases, rest = rest[: ctx.num_biases], rest[ctx.num_biases :]
        problem = _Problem(query, key, value, index, bias, biases, ctx.scale, ctx.plan, ctx.ranges)
        output, logsumexp, masked, *kept = rest
        kept = [*kept, *[None] * (2 * len(ctx.ranges) - len(kept))]
        parts = [
            FlashResult(kept[2 * number], kept[2 * number + 1], state)
            for number, state in enumerate(ctx.random_states)
        ]
        with torch.autocast(query.device.type, enabled=False):
            solution = _Solution(output, logsumexp, masked, parts)
            grad_query, grad_key, grad_value, grad_bias, *grad_biases = _gradients(
                problem, solution, grad_output
            )
        return grad_query, grad_key, grad_value, None, grad_bias, None, None, None, *grad_biases


@dataclass(frozen=True)
class _Problem:
    """The arguments of the operator.

    Attributes:
        query: ``(B, H, Q, D)``.
        key: ``(B, H, K, D)``.
        value: ``(B, H, K, D)``.
        index: ``(B, Q, W)``.
        bias: ``(B, Q, W)``.
        biases: ``(B, Q)`` of each segment.
        scale: Factor on the products of queries and keys.
        plan: The plan of ``index``.
        ranges: All keys, cut by the segments.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    index: Tensor
    bias: Tensor
    biases: Sequence[Tensor]
    scale: float
    plan: WindowPlan
    ranges: list[KeyRange]

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        return compute_dtype(self.query.dtype)

    @property
    def rows(self) -> WindowRows:
        """Queries, keys and values as rows."""
        return WindowRows.of(self.query, self.key, self.value, self.scale)

    def attend(self, mask: Tensor | None = None) -> JoinedAttention:
        """Attention with the segments' biases and a mask, without the windows' bias."""
        return attend_ranges(
            self.query, self.key, self.value, self.scale, self.ranges, self.biases, mask
        )

    def backward(
        self,
        grad_output: Tensor,
        output: Tensor,
        logsumexp: Tensor,
        random_states: Sequence[tuple[Tensor, ...]],
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value in :meth:`attend`, for any output and log-sum-exp."""
        return attend_ranges_backward(
            *(grad_output, self.query, self.key, self.value, output, logsumexp, self.scale),
            *(self.ranges, self.biases, random_states, mask),
        )

    def mask(self) -> Tensor:
        """``(B, 1, Q, K)`` dense bias of the windows."""
        return dense_bias(self.index, self.bias, self.key.shape[2]).unsqueeze(1)

    def some(self, batch: int, queries: Tensor) -> '_Problem':
        """That of one batch element and some of its queries; without a plan of its own."""
        one = slice(batch, batch + 1)
        return replace(
            self,
            query=self.query[one].index_select(2, queries),
            key=self.key[one],
            value=self.value[one],
            index=self.index[one, queries],
            bias=self.bias[one, queries],
            biases=[values[one, queries] for values in self.biases],
        )


@dataclass(frozen=True)
class _Solution:
    """What the forward pass finds.

    Attributes:
        output: ``(B, H, Q, D)``.
        logsumexp: ``(B, H, Q)``.
        masked: ``(B, Q)`` True for queries that attended with a mask.
        parts: What each range gave by itself.
    """

    output: Tensor
    logsumexp: Tensor
    masked: Tensor
    parts: list[FlashResult]

    @property
    def random_states(self) -> list[tuple[Tensor, ...]]:
        """What the kernels' backward wants to know about dropout."""
        return [part.random_state for part in self.parts]


def _attend(problem: _Problem) -> _Solution:
    joined = problem.attend()
    logsumexp = joined.logsumexp
    batch, heads, _ = logsumexp.shape
    bias = _EntryBias.of(problem)
    reference = to_rows(logsumexp.unsqueeze(-1))
    weights = problem.plan.to_table(bias.weights())
    numerator, denominator = problem.plan.sum_windows(problem.rows, reference, weights)
    # (B, H, Q, 1)
    denominator = from_rows(denominator, batch, heads) + 1
    output = (joined.output + from_rows(numerator, batch, heads)) / denominator
    logsumexp = logsumexp + denominator.log().squeeze(-1)
    masked = _lost_mass(denominator, problem.query.dtype)
    for element, queries in _masked_parts(masked):
        part = problem.some(element, queries)
        again = part.attend(part.mask())
        output[element].index_copy_(1, queries, again.output[0].to(output.dtype))
        logsumexp[element].index_copy_(1, queries, again.logsumexp[0])
    return _Solution(output.to(problem.query.dtype), logsumexp, masked, joined.parts)


def _lost_mass(denominator: Tensor, dtype: torch.dtype) -> Tensor:
    """``(B, Q)`` True for queries of which a head has lost too much mass, ``(B, H, Q, 1)``."""
    half = compute_dtype(dtype) != dtype
    smallest = _SMALLEST_DENOMINATOR_HALF if half else _SMALLEST_DENOMINATOR
    # not the contrary: NaN counts as lost
    return ~(denominator.squeeze(-1) >= smallest).all(1)


def _masked_parts(masked: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Batch elements and some of their masked queries."""
    if masked.any():
        for element, chosen in enumerate(masked):
            for queries in chosen.nonzero().squeeze(1).split(_MASKED_QUERIES):
                if len(queries):
                    yield element, queries


@dataclass(frozen=True)
class _EntryBias:
    """Bias on the entries of a plan.

    Attributes:
        plan: The plan.
        values: ``(E,)`` the windows' bias.
        segment_values: ``(E,)`` that of the segment in which the entry's key lies; None if there
            are no segments.
    """

    plan: WindowPlan
    values: Tensor
    segment_values: Tensor | None

    @classmethod
    def of(cls, problem: _Problem) -> '_EntryBias':
        """The bias of a problem, in computing precision."""
        plan = problem.plan
        values = plan.to_entries(problem.bias.to(problem.dtype))
        segment_values = None
        for part, inside in _entries_in_segments(problem):
            if segment_values is None:
                segment_values = torch.zeros_like(values)
            of_queries = problem.biases[part].to(values.dtype).flatten()
            segment_values += of_queries[plan.query_row] * inside
        return cls(plan, values, segment_values)

    def weights(self) -> Tensor:
        """``(E,)`` factors w."""
        weights = self.values.expm1()
        return weights if self.segment_values is None else weights * self.segment_values.exp()

    def powers(self) -> Tensor:
        """``(E,)`` factors w + 1."""
        if self.segment_values is None:
            return self.values.exp()
        return (self.values + self.segment_values).exp()


def _entries_in_segments(problem: _Problem) -> Iterator[tuple[int, Tensor]]:
    """Numbers of segments, and ``(E,)`` whether the keys of entries are in them."""
    if problem.biases:
        key = problem.index.flatten()[problem.plan.slot]
        for part in problem.ranges:
            if part.segment is not None:
                yield part.segment, (key >= part.start) & (key < part.stop)


def _gradients(problem: _Problem, solution: _Solution, grad_output: Tensor) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, bias and the segments' biases."""
    plan, dtype = problem.plan, problem.dtype
    batch, heads, _ = solution.logsumexp.shape
    # (B, H, Q)
    delta = (grad_output * solution.output.to(dtype)).sum(-1)
    grads = _flash_gradients(problem, solution, grad_output)
    bias = _EntryBias.of(problem)
    outside_mask = ~solution.masked.flatten()[plan.query_row]
    weights = bias.weights() * outside_mask
    pairs = plan.add_gradients(
        problem.rows,
        to_rows(grad_output),
        to_rows(solution.logsumexp.unsqueeze(-1)),
        to_rows(delta.unsqueeze(-1)),
        plan.to_table(weights),
        grads,
    )
    pairs = plan.from_table(pairs)
    grad_bias = plan.to_slots(pairs * bias.powers()).to(problem.bias.dtype)
    grad_biases = _segment_gradients(problem, solution, grad_output, delta, pairs * weights)
    return (
        *(
            from_rows(grad, batch, heads).to(problem.query.dtype)
            for grad in (grads.query, grads.key, grads.value)
        ),
        grad_bias,
        *grad_biases,
    )


def _flash_gradients(
    problem: _Problem, solution: _Solution, grad_output: Tensor
) -> WindowGradients:
    """Gradients as if the windows had no bias, but for the masked queries, which are done."""
    masked = solution.masked.unsqueeze(1)
    any_masked = bool(masked.any())
    logsumexp, grad = solution.logsumexp, grad_output
    if any_masked:
        grad = grad_output.masked_fill(masked.unsqueeze(-1), 0)
        logsumexp = logsumexp.masked_fill(masked, _LARGE_LOGSUMEXP)
    grads = problem.backward(grad, solution.output, logsumexp, solution.random_states)
    rows = WindowGradients(*(to_rows(grad.to(problem.dtype)) for grad in grads))
    if any_masked:
        _add_masked_gradients(problem, solution, grad_output, rows)
    return rows


def _add_masked_gradients(
    problem: _Problem, solution: _Solution, grad_output: Tensor, rows: WindowGradients
) -> None:
    """Add the gradients of the queries that attended with a mask."""
    num_queries, num_keys = problem.query.shape[2], problem.key.shape[2]
    for element, queries in _masked_parts(solution.masked):
        part = problem.some(element, queries)
        grads = part.backward(
            _select(grad_output, element, queries),
            _select(solution.output, element, queries),
            _select(solution.logsumexp, element, queries),
            solution.random_states,
            part.mask(),
        )
        grad_query, grad_key, grad_value = (to_rows(grad.to(problem.dtype)) for grad in grads)
        rows.query.index_add_(0, queries + element * num_queries, grad_query)
        keys = slice(element * num_keys, (element + 1) * num_keys)
        rows.key[keys] += grad_key
        rows.value[keys] += grad_value


def _select(tensor: Tensor, element: int, queries: Tensor) -> Tensor:
    """One batch element and some queries of ``(B, H, Q, ...)``."""
    return tensor[element : element + 1].index_select(2, queries)


def _segment_gradients(
    problem: _Problem, solution: _Solution, grad_output: Tensor, delta: Tensor, gains: Tensor
) -> list[Tensor]:
    """Gradients ``(B, Q)`` of the segments' biases.

    Args:
        problem: The problem.
        solution: Its solution.
        grad_output: ``(B, H, Q, D)``.
        delta: ``(B, H, Q)`` products of ``grad_output`` and the output.
        gains: ``(E,)`` what the windows' bias adds to the gradients of the logits.
    """
    grads = [torch.zeros_like(values, dtype=delta.dtype) for values in problem.biases]
    if problem.plan.repeated is not None:
        gains = gains.masked_fill(problem.plan.repeated, 0)
    for number, inside in _entries_in_segments(problem):
        grads[number].view(-1).index_add_(0, problem.plan.query_row, gains * inside)
    for keys, part in zip(problem.ranges, solution.parts, strict=True):
        if keys.segment is not None:
            bias = problem.biases[keys.segment].unsqueeze(1)
            grads[keys.segment] += segment_gradient(
                grad_output, delta, part, bias, solution.logsumexp
            )
    for element, queries in _masked_parts(solution.masked):
        some = problem.some(element, queries)
        again = some.attend(some.mask())
        for keys, part in zip(problem.ranges, again.parts, strict=True):
            if keys.segment is not None:
                bias = some.biases[keys.segment].unsqueeze(1)
                chosen = (
                    _select(tensor, element, queries)
                    for tensor in (grad_output, delta, solution.logsumexp)
                )
                grad, along, logsumexp = chosen
                grads[keys.segment][element, queries] = segment_gradient(
                    grad, along, part, bias, logsumexp
                )[0]
    return [grad.to(values.dtype) for grad, values in zip(grads, problem.biases, strict=True)]
