"""Plans: every key of every window has its place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmt_bias.ops import plan_windows
from cmt_bias.ops.window_plan import SlotBlock, find_blocks


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    queries=st.integers(1, 50),
    keys=st.integers(1, 100),
    width=st.integers(0, 12),
)
def test_places_lead_back_to_query_and_key(seed, batch, queries, keys, width):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(-1, keys, (batch, queries, width), generator=generator)
    plan = plan_windows(index, keys)
    query_of_place, key_of_place = (
        torch.full((plan.table_size,), -1, dtype=torch.int64) for _ in range(2)
    )
    for chunk in plan.chunks:
        groups, members, union = chunk.shape
        chunk.part_of(query_of_place)[:] = chunk.query_rows.view(groups, members, 1)
        chunk.part_of(key_of_place)[:] = chunk.key_rows.view(groups, 1, union)
    found = (index >= 0).nonzero()
    assert len(plan.slot) == len(found)
    assert torch.equal(query_of_place[plan.place], found[:, 0] * queries + found[:, 1])
    assert torch.equal(query_of_place[plan.place], plan.query_row)
    of_slots = index.flatten()[plan.slot] + found[:, 0] * keys
    assert torch.equal(key_of_place[plan.place], of_slots)
    # one place for each pair
    pairs = set(zip(plan.query_row.tolist(), of_slots.tolist(), strict=True))
    assert len(plan.place.unique()) == len(pairs)
    repeated = 0 if plan.repeated is None else int(plan.repeated.sum())
    assert len(plan.place) - repeated == len(pairs)


def test_windows_of_two_grids_are_told_apart():
    # windows of 2 x 3 cells in a grid with 10 columns, of 2 x 2 in one with 7
    first = torch.tensor([0, 1, 2, 10, 11, 12]) + torch.tensor([[3], [24], [51]])
    second = torch.tensor([0, 1, 7, 8]) + torch.tensor([[100], [115], [109]])
    index = torch.cat((first, second), dim=-1)
    assert find_blocks(index) == [SlotBlock(0, 6, 3, 10), SlotBlock(6, 10, 2, 7)]


def test_neighbours_share_their_keys():
    """Far fewer keys are fetched than the windows hold."""
    rows, columns, size = 40, 50, 9
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1, 400, 2, generator=generator)
    row = (corner[..., 0] * (rows - size)).long()[..., None, None] + torch.arange(size)[:, None]
    column = (corner[..., 1] * (columns - size)).long()[..., None, None] + torch.arange(size)
    plan = plan_windows((row * columns + column).flatten(2), rows * columns)
    fetched = sum(len(chunk.key_rows) for chunk in plan.chunks)
    assert fetched < 0.3 * len(plan.slot)


def test_wrong_indices_are_refused():
    with pytest.raises(ValueError, match='keys from -2 to 3; allowed are -1 for none and 0 to 9'):
        plan_windows(torch.tensor([[[-2, 3]]]), 10)
    with pytest.raises(ValueError, match='keys from 0 to 10'):
        plan_windows(torch.tensor([[[0, 10]]]), 10)
    with pytest.raises(ValueError, match='index must be int64 with axes'):
        plan_windows(torch.tensor([[0.0]]), 10)
