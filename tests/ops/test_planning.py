"""Plans: every key of every window has its place, whichever way the windows are read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cmt_bias.ops import WindowPlan, plan_windows
from cmt_bias.ops.grouped_windows import GroupedWindows
from cmt_bias.ops.listed_windows import ListedWindows

pytestmark = pytest.mark.usefixtures('window_kernel')


def query_and_key_of_places(plan: WindowPlan) -> tuple[Tensor, Tensor]:
    """``(table_size,)`` query and key rows that the plan multiplies, -1 for none."""
    query_row, key_row = (torch.full((plan.table_size,), -1) for _ in range(2))
    if isinstance(plan, GroupedWindows):
        for chunk in plan.chunks:
            groups, members, union = chunk.shape
            chunk.part_of(query_row)[:] = chunk.query_rows.view(groups, members, 1)
            chunk.part_of(key_row)[:] = chunk.key_rows.view(groups, 1, union)
    else:
        assert isinstance(plan, ListedWindows)
        number = torch.arange(len(plan.offsets) - 1)
        query_row[:] = number.repeat_interleave(plan.offsets.diff())
        key_row[:] = plan.key_row
    return query_row, key_row


def random_index(seed: int, batch: int, queries: int, keys: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, keys, (batch, queries, width), generator=generator)


any_index = given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    queries=st.integers(1, 50),
    keys=st.integers(1, 100),
    width=st.integers(0, 12),
)


@any_index
def test_places_lead_back_to_query_and_key(seed, batch, queries, keys, width):
    index = random_index(seed, batch, queries, keys, width)
    plan = plan_windows(index, keys)
    query_of_place, key_of_place = query_and_key_of_places(plan)
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


@any_index
def test_entries_survive_a_table(seed, batch, queries, keys, width):
    index = random_index(seed, batch, queries, keys, width)
    plan = plan_windows(index, keys)
    values = torch.rand(index.shape)
    entries = plan.to_entries(values)
    assert torch.equal(plan.from_table(plan.to_table(entries)), entries)
    if plan.repeated is None:
        assert torch.equal(plan.to_slots(entries), values.where(index >= 0, 0))


def test_wrong_indices_are_refused():
    with pytest.raises(ValueError, match='keys from -2 to 3; allowed are -1 for none and 0 to 9'):
        plan_windows(torch.tensor([[[-2, 3]]]), 10)
    with pytest.raises(ValueError, match='keys from 0 to 10'):
        plan_windows(torch.tensor([[[0, 10]]]), 10)
    with pytest.raises(ValueError, match='index must be int64 with axes'):
        plan_windows(torch.tensor([[0.0]]), 10)
