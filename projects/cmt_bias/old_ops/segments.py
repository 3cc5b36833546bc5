"""Attention with one bias for each of several ranges of keys.

A bias that is the same for all keys of a range only weighs the ranges against each other: plain
attention to each range apart is joined by the ranges' log-sum-exps, shifted by their biases.

Shape letters: B batch, H heads, Q queries, K keys, D channels of a head, R ranges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .flash_kernels import FlashResult, flash_backward, flash_forward

Segment = tuple[int, int, Tensor]


@dataclass(frozen=True)
class KeyRange:
    """Neighbouring keys with one bias.

    Attributes:
        start: First key.
        stop: Key after the last.
        segment: Which segment gives the bias; None for none.
    """

    start: int
    stop: int
    segment: int | None = None

    def of(self, tokens: Tensor) -> Tensor:
        """The range's part of ``(B, H, K, D)``."""
        return tokens[:, :, self.start : self.stop]


def find_ranges(segments: Sequence[Segment], num_keys: int) -> list[KeyRange]:
    """Cut all keys into ranges: the segments, and what lies between them.

    Raises:
        ValueError: If a segment is not within the keys or overlaps another one.
    """
    ranges: list[KeyRange] = []
    end = 0
    order = sorted(range(len(segments)), key=lambda number: segments[number][:2])
    for number in order:
        start, stop = segments[number][:2]
        if not 0 <= start <= stop <= num_keys:
            raise ValueError(f'segment [{start}, {stop}) is not within the {num_keys} keys.')
        if start < end:
            raise ValueError(f'segment [{start}, {stop}) overlaps one that ends at {end}.')
        if start > end:
            ranges.append(KeyRange(end, start))
        if stop > start:
            ranges.append(KeyRange(start, stop, number))
        end = stop
    if end < num_keys:
        ranges.append(KeyRange(end, num_keys))
    return ranges


@dataclass(frozen=True)
class JoinedAttention:
    """Attention to all ranges.

    Attributes:
        output: ``(B, H, Q, D)`` in computing precision if there are several ranges.
        logsumexp: ``(B, H, Q)``.
        parts: What each range gave by itself.
    """

    output: Tensor
    logsumexp: Tensor
    parts: list[FlashResult]


def attend_ranges(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    ranges: Sequence[KeyRange],
    biases: Sequence[Tensor],
    mask: Tensor | None = None,
) -> JoinedAttention:
    """Attention with a bias on each range.

    Args:
        query: ``(B, H, Q, D)``.
        key: ``(B, H, K, D)``.
        value: ``(B, H, K, D)``.
        scale: Factor on the products of queries and keys.
        ranges: Ranges that make up all keys.
        biases: ``(B, Q)`` of each segment.
        mask: ``(B, 1, Q, K)`` added to all products, or None.

    Returns:
        The attention.
    """
    parts = [
        flash_forward(
            query,
            part.of(key),
            part.of(value),
            scale,
            None if mask is None else mask[..., part.start : part.stop],
        )
        for part in ranges
    ]
    if len(parts) == 1 and ranges[0].segment is None:
        return JoinedAttention(parts[0].output, parts[0].logsumexp, parts)
    # (R, B, H, Q)
    shifted = torch.stack(
        [
            part.logsumexp + range_bias(keys, biases)
            for part, keys in zip(parts, ranges, strict=True)
        ]
    )
    logsumexp = shifted.logsumexp(0)
    weights = (shifted - logsumexp).exp().unsqueeze(-1)
    output = weights[0] * parts[0].output
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        output += weight * part.output
    return JoinedAttention(output, logsumexp, parts)


def range_bias(keys: KeyRange, biases: Sequence[Tensor]) -> Tensor | float:
    """``(B, 1, Q)`` bias of a range, or 0."""
    return 0.0 if keys.segment is None else biases[keys.segment].unsqueeze(1)


def attend_ranges_backward(
    grad_output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    scale: float,
    ranges: Sequence[KeyRange],
    biases: Sequence[Tensor],
    random_states: Sequence[tuple[Tensor, ...]],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`attend_ranges`, for any output and log-sum-exp.

    Returns:
        Gradients of query, key and value; those of keys and values ``(B, H, K, D)`` have the
        heads of a token next to each other.
    """
    grads = [
        flash_backward(
            grad_output,
            query,
            part.of(key),
            part.of(value),
            FlashResult(output, logsumexp - range_bias(part, biases), state),
            scale,
            None if mask is None else mask[..., part.start : part.stop],
        )
        for part, state in zip(ranges, random_states, strict=True)
    ]
    if len(grads) == 1:
        return grads[0]
    grad_query = grads[0][0].to(logsumexp.dtype)
    for grad, _, _ in grads[1:]:
        grad_query = grad_query + grad
    grad_key, grad_value = (
        torch.cat([grad[which].transpose(1, 2) for grad in grads], dim=1).transpose(1, 2)
        for which in (1, 2)
    )
    return grad_query, grad_key, grad_value


def segment_gradient(
    grad_output: Tensor, delta: Tensor, part: FlashResult, bias: Tensor | float, logsumexp: Tensor
) -> Tensor:
    """Gradient ``(B, Q)`` of a segment's bias where no other bias lies on its keys.

    Args:
        grad_output: ``(B, H, Q, D)``.
        delta: ``(B, H, Q)`` products of ``grad_output`` and the output.
        part: Plain attention to the range.
        bias: ``(B, 1, Q)`` of the segment.
        logsumexp: ``(B, H, Q)`` of the whole attention.
    """
    mass = (part.logsumexp + bias - logsumexp).exp()
    along = (grad_output * part.output.to(mass.dtype)).sum(-1)
    return (mass * (along - delta)).sum(1)
