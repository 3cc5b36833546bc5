"""Attention to windows, group by group of neighbours, with torch's operators.

Shape letters as in :mod:`cmt_bias.ops.window_plan` and :mod:`cmt_bias.ops.window_groups`.

Scores are recomputed in the backward pass; what is alive at once is one chunk's.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .window_groups import WindowChunk, WindowGrouper, find_pools
from .window_plan import WindowPlan, first_slots
from .window_rows import WindowGradients, WindowRows

# e^80 is finite in float32
_LARGEST_EXPONENT = 80.0


def group_windows(index: Tensor, num_keys: int) -> 'GroupedWindows':
    """Group neighbouring windows and list their keys.

    Args:
        index: ``(B, Q, W)`` int64 keys in each query's windows, -1 for none.
        num_keys: K.

    Returns:
        The plan.
    """
    batch, queries, width = index.shape
    rows = index.reshape(batch * queries, width)
    batch_of_row = torch.arange(batch, device=index.device).repeat_interleave(queries)
    # key rows, -1 where a slot has none
    rows = torch.where(rows >= 0, rows + batch_of_row[:, None] * num_keys, -1)
    grouper = WindowGrouper(rows, batch * num_keys)
    for block in find_pools(rows):
        grouper.add(block)
    slot = (rows >= 0).flatten().nonzero().squeeze(1)
    found = first_slots(rows)
    place, repeated = grouper.place, None
    if found is not None:
        first, is_other = found
        place = place.gather(1, first)
        repeated = is_other.flatten()[slot]
    return GroupedWindows(
        index_shape=(batch, queries, width),
        num_keys=num_keys,
        table_size=grouper.table_size,
        slot=slot,
        query_row=slot // max(width, 1),
        place=place.flatten()[slot],
        repeated=repeated,
        chunks=grouper.chunks,
    )


@dataclass(frozen=True)
class GroupedWindows(WindowPlan):
    """Plan whose tables hold each pair of a member and a key of its group, chunk after chunk.

    Attributes:
        chunks: The groups.
    """

    chunks: list[WindowChunk] = field(repr=False)

    def sum_windows(
        self, rows: WindowRows, reference: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`WindowPlan.sum_windows`."""
        numerator = torch.zeros_like(rows.query, dtype=rows.dtype)
        denominator = torch.zeros_like(reference)
        for chunk in self.chunks:
            shift = _gather_members(reference, chunk, rows).permute(2, 0, 1, 3)
            scores = _dot(_queries_of(chunk, rows), _gather_keys(rows.key, chunk, rows))
            terms = scores.sub_(shift).exp_().mul_(chunk.part_of(weights))
            sums = _mix(terms, _gather_keys(rows.value, chunk, rows))
            numerator.index_add_(0, chunk.query_rows, sums.flatten(2).flatten(0, 1))
            denominator.index_add_(0, chunk.query_rows, terms.sum(-1).flatten(1).t())
        return numerator, denominator

    def attend(self, rows: WindowRows) -> tuple[Tensor, Tensor]:
        """As :meth:`WindowPlan.attend`.

        A query's windows may be members of several groups. Each member attends by itself, and a
        query's members are joined by their largest scores and sums.
        """
        inside = self.inside(rows.dtype)
        members = [_attend_chunk(chunk.part_of(inside), chunk, rows) for chunk in self.chunks]
        total = rows.query.new_zeros(len(rows.query), rows.heads, dtype=rows.dtype)
        output = torch.zeros_like(rows.query, dtype=rows.dtype)
        if not members:
            return output, total
        largest, mass, sums = (torch.cat(parts) for parts in zip(*members, strict=True))
        query_rows = torch.cat([chunk.query_rows for chunk in self.chunks])
        top = torch.full_like(total, -torch.inf)
        top.scatter_reduce_(0, query_rows[:, None].expand_as(largest), largest, 'amax')
        top = top.where(top > -torch.inf, 0)
        share = (largest - top[query_rows]).exp()
        total.index_add_(0, query_rows, mass * share)
        sums = sums.unflatten(1, (rows.heads, -1)).mul_(share.unsqueeze(-1))
        output.index_add_(0, query_rows, sums.flatten(1))
        safe = total.where(total > 0, 1)
        output = output.unflatten(1, (rows.heads, -1)) / safe.unsqueeze(-1)
        return output.flatten(1), top + safe.log()

    def add_gradients(
        self,
        rows: WindowRows,
        grad_output: Tensor,
        reference: Tensor,
        delta: Tensor,
        weights: Tensor,
        gradients: WindowGradients,
    ) -> Tensor:
        """As :meth:`WindowPlan.add_gradients`."""
        pairs = torch.empty_like(weights)
        for chunk in self.chunks:
            part = chunk.part_of(weights)
            query, key = _queries_of(chunk, rows), _gather_keys(rows.key, chunk, rows)
            grad = _gather_members(grad_output, chunk, rows)
            value = _gather_keys(rows.value, chunk, rows)
            shift = _gather_members(reference, chunk, rows).permute(2, 0, 1, 3)
            powers = _dot(query, key).sub_(shift).clamp_(max=_LARGEST_EXPONENT).exp_()
            mean = _gather_members(delta, chunk, rows).permute(2, 0, 1, 3)
            grad_scores = _dot(grad, value).sub_(mean).mul_(powers)
            torch.sum(grad_scores, dim=0, out=chunk.part_of(pairs))
            _add(gradients.value, chunk.key_rows, _mix(powers.mul_(part).mT, grad))
            grad_scores.mul_(part)
            _add(gradients.query, chunk.query_rows, _mix(grad_scores, key).mul_(rows.scale))
            _add(gradients.key, chunk.key_rows, _mix(grad_scores.mT, query))
        return pairs


def _attend_chunk(
    inside: Tensor, chunk: WindowChunk, rows: WindowRows
) -> tuple[Tensor, Tensor, Tensor]:
    """Each member's ``(G * N, H)`` largest score and sum of powers, ``(G * N, H * D)`` sums of v.

    Args:
        inside: ``(G, N, U)`` 1 for keys in a member's window, 0 elsewhere.
        chunk: The chunk.
        rows: Queries, keys, values.
    """
    scores = _dot(_queries_of(chunk, rows), _gather_keys(rows.key, chunk, rows))
    scores.masked_fill_(inside == 0, -torch.inf)
    largest = scores.amax(-1, keepdim=True)
    # of a member that only pads its group: no key, -inf
    terms = scores.sub_(largest.clamp(min=torch.finfo(scores.dtype).min)).exp_()
    sums = _mix(terms, _gather_keys(rows.value, chunk, rows))
    return (
        largest.flatten(1).t(),
        terms.sum(-1).flatten(1).t(),
        sums.flatten(2).flatten(0, 1),
    )


def _queries_of(chunk: WindowChunk, rows: WindowRows) -> Tensor:
    """``(G, N, H, D)`` scaled queries."""
    return _gather_members(rows.query, chunk, rows) * rows.scale


def _gather_members(tensor: Tensor, chunk: WindowChunk, rows: WindowRows) -> Tensor:
    """Rows of the members, ``(B * Q, H * X)`` to ``(G, N, H, X)``, in computing precision."""
    gathered = tensor.index_select(0, chunk.query_rows).to(rows.dtype)
    return gathered.view(*chunk.shape[:2], rows.heads, -1)


def _gather_keys(tensor: Tensor, chunk: WindowChunk, rows: WindowRows) -> Tensor:
    """Rows of the keys, ``(B * K, H * D)`` to ``(G, U, H, D)``, in computing precision."""
    gathered = tensor.index_select(0, chunk.key_rows).to(rows.dtype)
    return gathered.view(chunk.shape[0], chunk.shape[2], rows.heads, -1)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """``(G, N, H, D)`` and ``(G, U, H, D)`` to their products ``(H, G, N, U)``."""
    return _matmul(left.permute(2, 0, 1, 3), right.permute(2, 0, 3, 1))


def _mix(weights: Tensor, rows: Tensor) -> Tensor:
    """Sums of rows ``(G, U, H, D)`` with weights ``(H, G, N, U)``: ``(G, N, H, D)``."""
    return _matmul(weights, rows.permute(2, 0, 1, 3)).permute(1, 2, 0, 3)


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """Matrix products of ``(H, G, X, Y)`` and ``(H, G, Y, Z)``, contiguous ``(H, G, X, Z)``."""
    if left.device.type != 'cpu':
        return torch.matmul(left, right)
    # One product over both leading axes would first copy its arguments to make one axis of them.
    # bmm takes them as they are, but its result must be contiguous: into any other it multiplies
    # matrix by matrix, in one thread.
    products = left.new_empty(*left.shape[:3], right.shape[-1])
    for arguments in zip(left, right, products, strict=True):
        torch.bmm(*arguments[:2], out=arguments[2])
    return products


def _add(rows: Tensor, index: Tensor, terms: Tensor) -> None:
    """Add terms ``(G, X, H, D)`` to the rows of the index ``(G * X,)``."""
    rows.index_add_(0, index, terms.flatten(2).flatten(0, 1))
