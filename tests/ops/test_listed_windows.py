"""Lists of windows' keys, and how threads share them in the backward pass."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from cmt_bias.ops.listed_windows import WindowRuns, list_windows
from cmt_bias.ops.window_kernel import load_window_kernel


@given(seed=st.integers(0, 1000), queries=st.integers(1, 30), keys=st.integers(1, 40))
def test_runs_are_all_pairs_once_with_neighbouring_keys(seed, queries, keys):
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(queries, keys, generator=generator) < 0.5
    query_row, key_row = chosen.nonzero().unbind(1)
    runs = WindowRuns.of(query_row, key_row)
    covered = []
    for query, begin, end in zip(runs.query_row, runs.begin, runs.end, strict=True):
        covered += range(begin, end)
        assert (query_row[begin:end] == query).all()
        assert (key_row[begin:end].diff() == 1).all()
    assert sorted(covered) == list(range(len(key_row)))
    assert (key_row[runs.begin].diff() >= 0).all()


def test_parts_have_similar_size():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        query_row = torch.arange(1000).repeat_interleave(9)
        key_row = (torch.arange(1000) * 7 % 900)[:, None] * 10 + torch.arange(9)
        runs = WindowRuns.of(query_row, key_row.flatten())
    finally:
        torch.set_num_threads(before)
    assert len(runs.part_bounds) == 5
    part = torch.bucketize(key_row.flatten(), runs.part_bounds[1:-1], right=True)
    assert (torch.bincount(part, minlength=4) - 2250).abs().max() < 50


def test_neighbouring_queries_follow_each_other():
    kernel = load_window_kernel()
    assert kernel is not None
    place = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    index = (place[:, None] * 10 + torch.arange(9)).unsqueeze(0)
    plan = list_windows(index, 1000, kernel)
    assert torch.equal(place[plan.order], torch.arange(50))
