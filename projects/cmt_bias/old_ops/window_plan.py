"""What attention to windows needs to know about their indices, and what it computes with that.

A plan is made once for all layers that share the windows. How it lists the windows' keys depends
on how they are read: one by one in a compiled loop (:mod:`cmt_bias.ops.listed_windows`), or in
groups of neighbours by torch's operators (:mod:`cmt_bias.ops.grouped_windows`).

Shape letters: B batch, Q queries, K keys, W window slots, E entries, H heads, D channels of one.
A *query row* is ``b * Q + q``, a *key row* ``b * K + k``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .window_rows import WindowGradients, WindowRows


@dataclass(frozen=True)
class WindowPlan(ABC):
    """Plan of the windows.

    An *entry* is a slot that holds a key. A *table* has one number for each pair of a query and a
    key in its windows, in an order of the plan's own. Each pair has exactly one *place* there,
    even if several slots name it; there may be other places, for pairs outside the windows.

    Attributes:
        index_shape: ``(B, Q, W)`` of the indices.
        num_keys: K.
        table_size: Length of a table.
        slot: ``(E,)`` entries as positions in the flattened ``(B, Q, W)``.
        query_row: ``(E,)`` their query rows.
        place: ``(E,)`` their places in a table.
        repeated: ``(E,)`` True for entries whose key another slot of the query names as well, but
            for one of them; None if no key is named twice.
    """

    index_shape: tuple[int, int, int]
    num_keys: int
    table_size: int
    slot: Tensor = field(repr=False)
    query_row: Tensor = field(repr=False)
    place: Tensor = field(repr=False)
    repeated: Tensor | None = field(repr=False)

    def to_entries(self, values: Tensor) -> Tensor:
        """``(E,)`` sums of ``(B, Q, W)`` values over the slots that name an entry's key."""
        entries = values.reshape(-1)[self.slot]
        if self.repeated is None:
            return entries
        return entries.new_zeros(self.table_size).index_add_(0, self.place, entries)[self.place]

    def to_slots(self, entries: Tensor) -> Tensor:
        """``(B, Q, W)`` from entries ``(E,)``; 0 for slots without a key."""
        slots = entries.new_zeros(self.index_shape)
        slots.view(-1)[self.slot] = entries
        return slots

    def to_table(self, entries: Tensor) -> Tensor:
        """``(table_size,)`` from entries ``(E,)``, the same for the same key; 0 elsewhere."""
        return entries.new_zeros(self.table_size).index_copy_(0, self.place, entries)

    def from_table(self, table: Tensor) -> Tensor:
        """``(E,)`` from a table."""
        return table[self.place]

    def inside(self, dtype: torch.dtype) -> Tensor:
        """Table with 1 for pairs in the windows, 0 elsewhere."""
        return self.to_table(torch.ones_like(self.place, dtype=dtype))

    @abstractmethod
    def sum_windows(
        self, rows: WindowRows, reference: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``sum of w_k exp(s_k - reference) v_k`` over a query's keys, and the same without v.

        Args:
            rows: Queries, keys, values.
            reference: ``(B * Q, H)``, not much below the largest score ``s_k``.
            weights: Table of w.

        Returns:
            ``(B * Q, H * D)`` and ``(B * Q, H)``.
        """

    @abstractmethod
    def attend(self, rows: WindowRows) -> tuple[Tensor, Tensor]:
        """Softmax in the windows.

        Args:
            rows: Queries, keys, values.

        Returns:
            ``(B * Q, H * D)`` output and ``(B * Q, H)`` log-sum-exp, both 0 for a query without
            keys.
        """

    @abstractmethod
    def add_gradients(
        self,
        rows: WindowRows,
        grad_output: Tensor,
        reference: Tensor,
        delta: Tensor,
        weights: Tensor,
        gradients: WindowGradients,
    ) -> Tensor:
        """Add the gradients of attention with probabilities ``p_k = w_k exp(s_k - reference)``.

        Args:
            rows: Queries, keys, values.
            grad_output: ``(B * Q, H * D)``.
            reference: ``(B * Q, H)``.
            delta: ``(B * Q, H)`` products of ``grad_output`` and the output.
            weights: Table of w.
            gradients: What is added to, in place.

        Returns:
            Table with ``sum over heads of exp(s_k - reference) * (grad_output . v_k - delta)``:
            times a pair's weight the gradient of its logit.
        """


def check_index(index: Tensor, num_keys: int) -> None:
    """Raise ValueError if an index is not ``(B, Q, W)`` int64 with keys in ``[-1, num_keys)``."""
    if index.dim() != 3 or index.dtype != torch.int64:
        raise ValueError(
            f'index must be int64 with axes (batch, queries, slots), got {index.dtype} of shape '
            f'{tuple(index.shape)}.'
        )
    if index.numel():
        lowest, highest = (int(bound) for bound in index.aminmax())
        if lowest < -1 or highest >= num_keys:
            raise ValueError(
                f'index holds keys from {lowest} to {highest}; allowed are -1 for none and '
                f'0 to {num_keys - 1}, for {num_keys} keys.'
            )


def first_slots(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """For each slot the first one of the query that names the same key.

    A key may stand in two windows of a query; all its slots are to share one place, because their
    biases add before the exponential function.

    Args:
        rows: ``(B * Q, W)`` keys, -1 for none.

    Returns:
        ``(B * Q, W)`` slots, each slot itself where it has no key, and ``(B * Q, W)`` whether they
        are others; None if no key is named twice.
    """
    ordered, order = rows.sort(dim=1, stable=True)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if not repeated.any():
        return None
    position = torch.arange(rows.shape[1], device=rows.device)
    of_key = position.where(~F.pad(repeated, (1, 0)), 0).cummax(dim=1).values
    first = torch.empty_like(order).scatter_(1, order, order.gather(1, of_key))
    return first, first != position
