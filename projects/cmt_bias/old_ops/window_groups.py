"""Groups of neighbouring windows, and the keys of each group.

Neighbouring queries have nearly the same window, so that fetching its keys query by query moves
the same rows many times. Here the windows are sorted by place and cut into groups of neighbours,
and for every group the union of its keys is listed. Attention in the windows is then a few batched
products of ``members x union`` keys (:mod:`cmt_bias.ops.grouped_windows`).

Shape letters as in :mod:`cmt_bias.ops.window_plan`; G groups, N members, U keys of a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass

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


def find_pools(rows: Tensor) -> list[list[SlotBlock]]:
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


class WindowGrouper:
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
