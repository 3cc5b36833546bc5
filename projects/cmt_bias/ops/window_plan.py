"""Which keys are fetched together: everything about windows that depends on the indices alone.

Neighbouring queries have nearly the same window, so that fetching its keys query by query moves
the same rows many times. The plan sorts the windows by place, cuts them into groups of neighbours
and lists for every group the union of its keys. Attention in the windows is then a few batched
products of ``members x union`` keys (:mod:`cmt_bias.ops.window_products`).

Shape letters: B batch, Q queries, K keys, W window slots, G groups, N members of a group,
U keys of a group. A *query row* is ``b * Q + q``, a *key row* ``b * K + k``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

# Queries sampled to find out how the window slots are arranged.
_SAMPLED_QUERIES = 256
# Members of a group where windows share many keys, and where they share few: with more members a
# key is fetched less often, but multiplied with more queries that do not want it.
_LARGE_GROUP, _SMALL_GROUP = 16, 8
# Windows share many keys from this many window entries per different key on.
_MANY_SHARED = 4
# Key rows of a chunk: fits the second-level cache of a CPU together with its scores.
_CPU_CHUNK_ROWS = 1024
# On an accelerator chunks only bound the memory.
_CUDA_CHUNK_ROWS = 1 << 17


@dataclass(frozen=True)
class WindowChunk:
    """Groups that are computed at once.

    Attributes:
        shape: ``(G, N, U)``.
        key_rows: ``(G * U,)`` key rows of each group, padded with row 0.
        query_rows: ``(G * N,)`` query rows of the members, padded with row 0.
        start: Where the chunk begins in a table of the plan.
    """

    shape: tuple[int, int, int]
    key_rows: Tensor
    query_rows: Tensor
    start: int

    def part_of(self, table: Tensor) -> Tensor:
        """``(G, N, U)`` view of a table's part for this chunk."""
        groups, members, union = self.shape
        return table[self.start : self.start + groups * members * union].view(self.shape)


@dataclass(frozen=True)
class WindowPlan:
    """What attention needs to know about the indices of windows.

    An *entry* is a slot that holds a key. A *table* has one number for each pair of a member and a
    key of its group, chunk after chunk. Each (query, key) of a window has exactly one place
    there, even if several slots name it; all other places stand for pairs outside the windows.

    Attributes:
        index_shape: ``(B, Q, W)`` of the indices.
        num_keys: K.
        chunks: The groups.
        table_size: Length of a table.
        slot: ``(E,)`` entries as positions in the flattened ``(B, Q, W)``.
        query_row: ``(E,)`` their query rows.
        place: ``(E,)`` their places in a table.
        repeated: ``(E,)`` True for entries whose key another slot of the query names as well, but
            for one of them; None if no key is named twice.
    """

    index_shape: tuple[int, int, int]
    num_keys: int
    chunks: list[WindowChunk] = field(repr=False)
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


def plan_windows(index: Tensor, num_keys: int) -> WindowPlan:
    """Group neighbouring windows and list their keys.

    Any indices are right; fast are those that come from windows in grids: slots of one window
    next to each other, row by row, -1 where the window is cut.

    Args:
        index: ``(B, Q, W)`` int64 keys in each query's windows, -1 for none.
        num_keys: K.

    Returns:
        The plan, for any number of calls with the same ``index``.

    Raises:
        ValueError: If ``index`` is not an integer tensor with three axes, or holds a key
            outside ``[-1, num_keys)``.
    """
    _check_index(index, num_keys)
    batch, queries, width = index.shape
    rows = index.reshape(batch * queries, width)
    batch_of_row = torch.arange(batch, device=index.device).repeat_interleave(queries)
    # key rows, -1 where a slot has none
    rows = torch.where(rows >= 0, rows + batch_of_row[:, None] * num_keys, -1)
    grouper = _Grouper(rows, batch * num_keys)
    for block in _find_pools(rows):
        grouper.add(block)
    slot = (rows >= 0).flatten().nonzero().squeeze(1)
    chosen = _first_slots(rows)
    place, repeated = grouper.place, None
    if chosen is not None:
        place = place.gather(1, chosen)
        repeated = (chosen != torch.arange(width, device=rows.device)).flatten()[slot]
    return WindowPlan(
        index_shape=(batch, queries, width),
        num_keys=num_keys,
        chunks=grouper.chunks,
        table_size=grouper.table_size,
        slot=slot,
        query_row=slot // max(width, 1),
        place=place.flatten()[slot],
        repeated=repeated,
    )


def _check_index(index: Tensor, num_keys: int) -> None:
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


@dataclass(frozen=True)
class SlotBlock:
    """Neighbouring slots that hold one window each, cut from a grid.

    Attributes:
        start: First slot.
        stop: Slot after the last.
        columns: Columns of the window.
        stride: Columns of the grid: what separates a key from the one in the next row.
    """

    start: int
    stop: int
    columns: int
    stride: int

    @property
    def rows(self) -> int:
        """Rows of the window."""
        return -(-(self.stop - self.start) // self.columns)


def _find_pools(rows: Tensor) -> list[list[SlotBlock]]:
    """Blocks of slots; those with the same kind of window, such as two views', in one pool."""
    pools: dict[tuple[int, int, int], list[SlotBlock]] = {}
    for block in find_blocks(rows):
        kind = (block.stop - block.start, block.columns, block.stride)
        pools.setdefault(kind, []).append(block)
    return list(pools.values())


def find_blocks(rows: Tensor) -> list[SlotBlock]:
    """Find where one window's slots end and the next one's begin.

    Within a window cut from a grid the step from one slot's key to the next slot's is the same
    for every query: 1 in a row, more at its end. From one window to another it varies.

    Args:
        rows: ``(B * Q, W)`` keys, -1 for none.

    Returns:
        The blocks, in order, without gaps; one for all slots if they follow no such pattern.
    """
    width = rows.shape[1]
    if width == 0:
        return []
    sample = rows[:: max(1, len(rows) // _SAMPLED_QUERIES)]
    step = sample[:, 1:] - sample[:, :-1]
    known = (sample[:, 1:] >= 0) & (sample[:, :-1] >= 0)
    largest = torch.iinfo(step.dtype).max
    low = step.where(known, largest).amin(0).tolist() if len(rows) else []
    high = step.where(known, -largest).amax(0).tolist() if len(rows) else []
    ends = [slot + 1 for slot in range(width - 1) if low and low[slot] < high[slot]]
    if len(ends) > max(8, width // 8):
        ends = []
    blocks = []
    for start, stop in zip([0, *ends], [*ends, width], strict=True):
        steps = low[start : stop - 1]
        columns = next((i + 1 for i, s in enumerate(steps) if s not in (1, largest)), stop - start)
        stride = steps[columns - 1] + columns - 1 if columns < stop - start else columns
        blocks.append(SlotBlock(start, stop, columns, max(stride, 1)))
    return blocks


class _Grouper:
    """Cuts the windows of one pool after the other into groups, and the groups into chunks.

    Args:
        rows: ``(B * Q, W)`` key rows, -1 for none.
        num_key_rows: ``B * K``.

    Attributes:
        chunks: The chunks so far.
        table_size: The length of their tables.
        place: ``(B * Q, W)`` places of the slots in a table.
    """

    def __init__(self, rows: Tensor, num_key_rows: int) -> None:
        self._rows = rows
        self._num_key_rows = num_key_rows
        self._chunk_rows = _CPU_CHUNK_ROWS if rows.device.type == 'cpu' else _CUDA_CHUNK_ROWS
        self.chunks: list[WindowChunk] = []
        self.table_size = 0
        self.place = torch.zeros_like(rows)

    def add(self, pool: list[SlotBlock]) -> None:
        """Add the windows in these blocks of slots; all blocks have the same width."""
        # (windows, slots of a window), and where each came from: query row and first slot
        keys = torch.cat([self._rows[:, block.start : block.stop] for block in pool])
        query = torch.arange(len(self._rows), device=keys.device).repeat(len(pool))
        first_slot = query.new_tensor([block.start for block in pool])
        first_slot = first_slot.repeat_interleave(len(self._rows))
        order = self._order(keys, pool[0])
        if len(order):
            self._add_groups(keys[order], query[order], first_slot[order])

    def _order(self, keys: Tensor, block: SlotBlock) -> Tensor:
        """Windows that hold a key, neighbours in the grid one after the other."""
        used = (keys >= 0).any(1).nonzero().squeeze(1)
        first = keys[used].where(keys[used] >= 0, self._num_key_rows).amin(1)
        row, column = first // block.stride, first % block.stride
        # by column within bands as high as a window: first keys alone would sort by row, and a
        # group would stretch over the whole grid
        band = row // block.rows
        return used[(band * block.stride + column).argsort(stable=True)]

    def _add_groups(self, keys: Tensor, query: Tensor, first_slot: Tensor) -> None:
        members = self._group_size(keys)
        padding = -len(keys) % members
        # (G, N * slots) key rows; beyond the last key row where there is none
        grouped = F.pad(keys, (0, 0, 0, padding), value=-1).view(-1, members * keys.shape[1])
        grouped = grouped.where(grouped >= 0, self._num_key_rows)
        union, position, size = _unite(grouped, self._num_key_rows)
        # groups of similar size next to each other: the keys of a chunk are padded to its largest
        by_size = size.argsort(stable=True)
        members_query = F.pad(query, (0, padding)).view(-1, members)
        # (G, N, slots)
        place = position.view(len(size), members, -1)
        sizes = size[by_size].tolist()
        for start, stop in _cut_by_rows(sizes, self._chunk_rows):
            chunk = by_size[start:stop]
            most = sizes[stop - 1]
            shape = (stop - start, members, most)
            self.chunks.append(
                WindowChunk(
                    shape=shape,
                    key_rows=union[chunk, :most].flatten(),
                    query_rows=members_query[chunk].flatten(),
                    start=self.table_size,
                )
            )
            lines = torch.arange((stop - start) * members, device=keys.device).view(-1, members)
            place[chunk] += self.table_size + lines[..., None] * most
            self.table_size += (stop - start) * members * most
        place = place.flatten(0, 1)[: len(keys)]
        slots = first_slot[:, None] + torch.arange(keys.shape[1], device=keys.device)
        self.place[query[:, None], slots] = place

    @staticmethod
    def _group_size(keys: Tensor) -> int:
        """How many neighbours make a group."""
        found = keys[keys >= 0]
        marked = torch.zeros(int(found.amax()) + 1, dtype=torch.bool, device=keys.device)
        different = int(marked.index_fill_(0, found, True).sum())
        return _LARGE_GROUP if len(found) > _MANY_SHARED * different else _SMALL_GROUP


def _unite(grouped: Tensor, nothing: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unions of rows.

    Args:
        grouped: ``(G, M)`` numbers, ``nothing`` (the largest) where there is none.
        nothing: The number that stands for none.

    Returns:
        ``(G, M)`` each row's different numbers in order, then zeros; ``(G, M)`` positions of all
        numbers among them; ``(G,)`` how many there are.
    """
    ordered, order = grouped.sort(dim=1)
    new = F.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0), value=True)
    position = new.cumsum(1) - 1
    new &= ordered < nothing
    size = new.sum(1)
    union = torch.zeros_like(grouped).scatter_(1, position, ordered.where(ordered < nothing, 0))
    return union, torch.empty_like(position).scatter_(1, order, position), size


def _cut_by_rows(sizes: list[int], most_rows: int) -> Iterator[tuple[int, int]]:
    """Cut groups, sorted by size, into ranges that hold at most so many key rows each."""
    start = 0
    for stop, size in enumerate(sizes):
        if stop > start and (stop + 1 - start) * size > most_rows:
            yield start, stop
            start = stop
    yield start, len(sizes)


def _first_slots(rows: Tensor) -> Tensor | None:
    """For each slot the first one of the query that names the same key.

    A key may stand in two windows of a query and thus in two groups; all its slots are to share
    one place, because their biases add before the exponential function.

    Args:
        rows: ``(B * Q, W)`` key rows, -1 for none.

    Returns:
        ``(B * Q, W)`` slots, each slot itself where it has no key; None if no key is named twice.
    """
    ordered, order = rows.sort(dim=1, stable=True)
    repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if not repeated.any():
        return None
    position = torch.arange(rows.shape[1], device=rows.device)
    first = position.where(~F.pad(repeated, (1, 0)), 0).cummax(dim=1).values
    return torch.empty_like(order).scatter_(1, order, order.gather(1, first))
