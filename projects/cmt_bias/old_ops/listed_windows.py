"""Attention to windows, key by key, in a loop compiled for the CPU.

Shape letters as in :mod:`cmt_bias.ops.window_plan`; P pairs of a query and a key, R runs.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .window_kernel import Problem, address
from .window_plan import WindowPlan, first_slots
from .window_rows import WindowGradients, WindowRows

# Parts of the keys that threads take in the backward pass: each has the queries' gradients once.
_MOST_PARTS = 16


def list_windows(index: Tensor, num_keys: int, kernel: ctypes.CDLL) -> 'ListedWindows':
    """List the keys of each query's windows.

    Args:
        index: ``(B, Q, W)`` int64 keys in each query's windows, -1 for none, on CPU.
        num_keys: K.
        kernel: The compiled loop.

    Returns:
        The plan.
    """
    batch, queries, width = index.shape
    rows = index.reshape(batch * queries, width).contiguous()
    slot = (rows >= 0).flatten().nonzero().squeeze(1)
    query_row = slot // max(width, 1)
    key_row = rows.flatten()[slot]
    if batch > 1:
        key_row += query_row // queries * num_keys
    place, repeated, pair_query = torch.arange(len(slot)), None, query_row
    if _count_repeated(rows, num_keys, kernel):
        place, repeated = _number_pairs(rows, slot)
        pair_query, key_row = query_row[~repeated], key_row[~repeated]
    offsets = _offsets(pair_query, batch * queries)
    return ListedWindows(
        index_shape=(batch, queries, width),
        num_keys=num_keys,
        table_size=len(key_row),
        slot=slot,
        query_row=query_row,
        place=place,
        repeated=repeated,
        kernel=kernel,
        key_row=key_row,
        offsets=offsets,
        order=_order_by_place(offsets, key_row),
        runs=WindowRuns.of(pair_query, key_row),
    )


def _count_repeated(rows: Tensor, num_keys: int, kernel: ctypes.CDLL) -> int:
    """How many slots name a key that an earlier one of the query names."""
    numbers = (*rows.shape, num_keys, torch.get_num_threads())
    return kernel.count_repeated(address(rows), *(ctypes.c_int64(number) for number in numbers))


def _number_pairs(rows: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the entries' pairs, and which entries repeat an earlier one's, ``(E,)`` both.

    Pairs are numbered as their first entries follow each other.
    """
    found = first_slots(rows)
    assert found is not None
    first, is_other = found
    repeated = is_other.flatten()[slot]
    kept = slot[~repeated]
    number = torch.zeros(rows.numel(), dtype=torch.int64)
    number[kept] = torch.arange(len(kept))
    return number.view(rows.shape).gather(1, first).flatten()[slot], repeated


def _offsets(query_row: Tensor, num_query_rows: int) -> Tensor:
    """``(B * Q + 1,)`` where each query's pairs begin, and their number."""
    return F.pad(torch.bincount(query_row, minlength=num_query_rows).cumsum(0), (1, 0))


def _order_by_place(offsets: Tensor, key_row: Tensor) -> Tensor:
    """``(B * Q,)`` query rows, those with neighbouring keys together, for the caches."""
    if not len(key_row):
        return torch.arange(len(offsets) - 1)
    middle = (offsets[1:] + offsets[:-1]) // 2
    return key_row[middle.clamp(max=len(key_row) - 1)].argsort(stable=True)


@dataclass(frozen=True)
class WindowRuns:
    """Pairs of one query whose keys are neighbours, such as a row of a window; by first key.

    Attributes:
        query_row: ``(R,)``.
        begin: ``(R,)`` first pair.
        end: ``(R,)`` pair after the last.
        part_bounds: ``(parts + 1,)`` key rows that cut the pairs into parts of similar size.
    """

    query_row: Tensor
    begin: Tensor
    end: Tensor
    part_bounds: Tensor

    @classmethod
    def of(cls, query_row: Tensor, key_row: Tensor) -> 'WindowRuns':
        """From the ``(P,)`` query rows and key rows of the pairs."""
        follows = (key_row[1:] == key_row[:-1] + 1) & (query_row[1:] == query_row[:-1])
        begin = F.pad(~follows, (1, 0), value=True)[: len(key_row)].nonzero().squeeze(1)
        end = F.pad(begin[1:], (0, 1), value=len(key_row))[: len(begin)]
        order = key_row[begin].argsort(stable=True)
        begin, end = begin[order], end[order]
        first = key_row[begin]
        parts = max(1, min(torch.get_num_threads(), _MOST_PARTS, len(begin)))
        part = (end - begin).cumsum(0) * parts // max(len(key_row), 1)
        cuts = torch.searchsorted(part, torch.arange(1, parts))
        beyond = torch.iinfo(torch.int32).max
        bounds = F.pad(F.pad(first[cuts], (1, 0)), (0, 1), value=beyond)
        return cls(query_row[begin], begin, end, bounds)


@dataclass(frozen=True)
class ListedWindows(WindowPlan):
    """Plan whose tables hold each query's pairs, one query after the other.

    Attributes:
        kernel: The compiled loop.
        key_row: ``(P,)`` key row of each pair.
        offsets: ``(B * Q + 1,)`` where each query's pairs begin, and their number.
        order: ``(B * Q,)`` query rows, neighbours one after the other.
        runs: The pairs, cut into runs.
    """

    kernel: ctypes.CDLL = field(repr=False)
    key_row: Tensor = field(repr=False)
    offsets: Tensor = field(repr=False)
    order: Tensor = field(repr=False)
    runs: WindowRuns = field(repr=False)

    def to_table(self, entries: Tensor) -> Tensor:
        """As :meth:`WindowPlan.to_table`."""
        return entries if self.repeated is None else super().to_table(entries)

    def from_table(self, table: Tensor) -> Tensor:
        """As :meth:`WindowPlan.from_table`."""
        return table if self.repeated is None else super().from_table(table)

    def sum_windows(
        self, rows: WindowRows, reference: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`WindowPlan.sum_windows`."""
        return self._attend(rows, reference.contiguous(), weights.contiguous())

    def attend(self, rows: WindowRows) -> tuple[Tensor, Tensor]:
        """As :meth:`WindowPlan.attend`."""
        logsumexp = torch.empty(len(rows.query), rows.heads, dtype=rows.dtype)
        output, _ = self._attend(rows, logsumexp, None)
        return output, logsumexp

    def _attend(
        self, rows: WindowRows, reference: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sums of values and of their factors; without weights softmax, ``reference`` filled."""
        query = rows.query.to(rows.dtype).contiguous()
        sums, mass = torch.empty_like(query), torch.empty_like(reference)
        self._function('attend', rows)(
            ctypes.byref(self._problem(rows, query)),
            ctypes.c_bool(weights is not None),
            *(address(tensor) for tensor in (weights, reference, sums, mass)),
        )
        return sums, mass

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
        query = rows.query.to(rows.dtype).contiguous()
        # (parts, B * Q, H * D)
        grad_query = query.new_zeros(len(self.runs.part_bounds) - 1, *query.shape)
        pairs = query.new_empty(self.table_size)
        inputs = (grad_output.to(rows.dtype), reference, delta, weights)
        read = [tensor.contiguous() for tensor in inputs]
        self._function('backward', rows)(
            ctypes.byref(self._problem(rows, query)),
            *(address(tensor) for tensor in (*read, grad_query)),
            *_address_and_stride(gradients.key),
            *_address_and_stride(gradients.value),
            address(pairs),
        )
        gradients.query.add_(grad_query.sum(0))
        return pairs

    def _function(self, name: str, rows: WindowRows) -> Callable[..., None]:
        """The kernel's function for the type of the tokens."""
        return getattr(self.kernel, f'{name}_{str(rows.key.dtype).removeprefix("torch.")}')

    def _problem(self, rows: WindowRows, query: Tensor) -> Problem:
        runs = self.runs
        return Problem(
            *(len(query), rows.heads, query.shape[1] // rows.heads, torch.get_num_threads()),
            *(tensor.data_ptr() for tensor in (self.key_row, self.offsets, self.order)),
            len(runs.begin),
            *(tensor.data_ptr() for tensor in (runs.query_row, runs.begin, runs.end)),
            *(len(runs.part_bounds) - 1, runs.part_bounds.data_ptr()),
            *(tensor.data_ptr() for tensor in (query, rows.key, rows.value)),
            *(rows.key.stride(0), rows.value.stride(0), rows.scale),
        )


def _address_and_stride(rows: Tensor) -> tuple[ctypes.c_void_p, ctypes.c_int64]:
    """Where rows lie, and how far apart."""
    return address(rows), ctypes.c_int64(rows.stride(0))
