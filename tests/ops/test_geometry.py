"""Layouts and windows beside loops over maps and cells."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmt_bias.ops import NOT_SEEN, QueryWindows, TokenLayout, Window, WindowedBias, dense_bias

from .cases import layouts, random_case, shapes


@given(seed=st.integers(0, 1000), layout=layouts, shapes=shapes, outside=st.booleans())
def test_dense_bias_equals_loops_over_maps_and_cells(seed, layout, shapes, outside):
    case = random_case(seed, layout, shapes, queries=3).to(torch.float64)
    cells = case.windows.cells
    if outside:  # a window may be cut however far its middle is outside of the map
        cells += torch.randint(-4, 5, cells.shape, dtype=torch.int32)
    dense = dense_bias(WindowedBias(case.windows, case.strength))
    mask = case.windows.to_mask()
    maps = [(0, layout.bev_shape)] if layout.bev_shape else []
    maps += [(1, layout.view_shape)] * layout.num_views
    for batch in range(2):
        for query in range(3):
            expected, inside = [], []
            for number, (modality, (rows, columns)) in enumerate(maps):
                middle = cells[batch, query, number].tolist()
                radius, sigma = shapes[modality].radius, shapes[modality].sigma
                strength = case.strength[batch, query, modality].item()
                for row in range(rows):
                    for column in range(columns):
                        down, right = row - middle[0], column - middle[1]
                        whole = radius is None
                        inside.append(whole or max(abs(down), abs(right)) <= radius)
                        gain = float(inside[-1])
                        if sigma is not None and not whole:
                            gain *= math.exp(-(down**2 + right**2) / (2 * sigma**2))
                        expected.append(strength * gain)
            assert dense[batch, query].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-300)
            assert mask[batch, query].tolist() == inside


def test_segments_are_the_bev_map_then_the_views():
    layout = TokenLayout((2, 3), 2, (4, 5))
    assert [tuple(segment) for segment in layout.segments] == [
        (0, 2, 3, 0),
        (6, 4, 5, 1),
        (26, 4, 5, 1),
    ]
    assert (layout.num_lidar_tokens, layout.num_tokens) == (6, 46)
    assert [segment.start for segment in TokenLayout(None, 2, (4, 5)).segments] == [0, 20]
    assert TokenLayout((2, 3)).num_tokens == 6


def test_layout_that_contradicts_itself_is_refused():
    for arguments in [dict(), dict(num_views=2), dict(view_shape=(2, 3)), dict(bev_shape=(-1, 2))]:
        with pytest.raises(ValueError, match=r'TokenLayout\('):
            TokenLayout(**arguments)


def test_some_queries_have_the_bias_they_had():
    case = random_case()
    bias = WindowedBias(case.windows, case.strength)
    queries = torch.tensor([4, 0, 4])
    assert torch.equal(dense_bias(bias.of_queries(queries)), dense_bias(bias)[:, queries])


def test_query_that_sees_nothing_has_no_window():
    cells = torch.full((1, 1, 1, 2), NOT_SEEN, dtype=torch.int32)
    windows = QueryWindows(TokenLayout((3, 3)), cells, (Window(2, 1.0), Window(2)))
    assert not windows.to_mask().any()
    assert not windows.gain(torch.float64).any()
