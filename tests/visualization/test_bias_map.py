"""Windows and biases on the cells of maps, beside the cells counted one by one."""

import numpy as np
import pytest
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from cmt_bias.ops import NOT_SEEN, QueryWindows, TokenLayout, Window, WindowedBias
from cmt_bias.visualization.bias_picture import draw_map

LAYOUT = TokenLayout((4, 6), 2, (3, 5))


def windowed_bias(radii: tuple[int | None, int | None], num_queries: int = 6) -> WindowedBias:
    """Random windows and strengths; no query is seen by the first camera but the last."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.stack(
        [
            torch.randint(0, size, (1, num_queries, 3), generator=generator, dtype=torch.int32)
            for size in (3, 5)
        ],
        dim=-1,
    )
    cells[:, :-1, 1, 0] = NOT_SEEN
    strength = torch.randn(1, num_queries, 2, generator=generator)
    lidar, camera = map(Window, radii)
    return WindowedBias(QueryWindows(LAYOUT, cells, (lidar, camera)), strength)


def drawn(bias: WindowedBias, number: int) -> tuple[np.ndarray, list[list[float]]]:
    """Of the map of a number: the values, and the windows' left, lower, right and upper border."""
    axes = Figure().add_subplot()
    _, rows, columns, _ = bias.windows.layout.segments[number]
    draw_map(axes, bias, number, (0, columns, 0, rows), ScalarMappable())
    (image,) = axes.images
    windows = [window.get_bbox().extents.tolist() for window in axes.patches]
    return np.ma.filled(image.get_array(), np.nan), windows


@pytest.mark.parametrize('radii', [(1, 0), (0, 1), (None, 1), (2, None)])
def test_cells_have_the_strongest_bias_of_the_windows_that_hold_them(radii):
    bias = windowed_bias(radii)
    assert len(LAYOUT.segments) == 3
    for number, segment in enumerate(LAYOUT.segments):
        values, windows = drawn(bias, number)
        radius = radii[segment.modality]
        covered = np.zeros((segment.rows, segment.columns), bool)
        for left, low, right, high in np.array(windows, int).reshape(-1, 4):
            covered[low:high, left:right] = True
        if radius is None:
            assert windows == []
            covered[:] = True
        assert (np.isnan(values) == ~covered).all()
        for row, column in zip(*covered.nonzero(), strict=True):
            strengths = [
                float(strength[segment.modality])
                for cell, strength in zip(
                    bias.windows.cells[0, :, number], bias.strength[0], strict=True
                )
                if radius is None
                or max(abs(int(cell[0]) - row), abs(int(cell[1]) - column)) <= radius
            ]
            assert values[row, column] == pytest.approx(max(strengths, key=abs))


def test_a_window_that_reaches_over_the_border_ends_there():
    bias = windowed_bias((1, 1), num_queries=1)
    bias.windows.cells[0, 0] = torch.tensor([[3, 0], [NOT_SEEN, 2], [1, 2]])
    lidar, first, second = (drawn(bias, number)[1] for number in range(3))
    assert lidar == [[0, 2, 2, 4]]
    assert first == []
    assert second == [[1, 0, 4, 3]]


def test_without_queries_no_cell_has_a_bias():
    for number in range(3):
        values, windows = drawn(windowed_bias((1, None), num_queries=0), number)
        assert np.isnan(values).all()
        assert windows == []
