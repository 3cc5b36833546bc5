"""The bias of some queries on the cells of a map, a BEV map or one camera's, and its drawing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch.nn.functional import pad

from ..ops import WindowedBias, dense_bias
from .camera_view import FloatArray


class BiasMap(NamedTuple):
    """The bias of n queries on the cells of one map."""

    values: FloatArray
    """(rows, columns), logits: of the windows that hold a cell, the bias that is largest in size;
    NaN where there is none."""
    windows: NDArray[np.int64]
    """(m, 4), the windows in this map: first column, first row, column after the last and row
    after the last; none where the whole modality is the window."""


def bias_maps(bias: WindowedBias) -> list[BiasMap]:
    """The maps of a sample's queries, one for each segment of the tokens' layout."""
    # A row of zeros before those of the queries: what is the strongest where there is none.
    values = pad(dense_bias(bias)[0], (0, 0, 1, 0))
    strongest = values.gather(0, values.abs().argmax(dim=0, keepdim=True))[0]  # (K,)
    strongest[~bias.windows.to_mask()[0].any(dim=0)] = np.nan
    maps = []
    for number, (start, rows, columns, modality) in enumerate(bias.windows.layout.segments):
        of_map = strongest[start : start + rows * columns].view(rows, columns).cpu().numpy()
        radius = bias.windows.shapes[modality].radius
        windows = np.zeros((0, 4), dtype=np.int64)
        if radius is not None:
            middles = bias.windows.cells[0, :, number].flip(-1).long().cpu().numpy()
            first = np.maximum(middles - radius, 0)
            last = np.minimum(middles + radius + 1, (columns, rows))
            windows = np.hstack([first, last])[(first < last).all(axis=1)]
        maps.append(BiasMap(of_map, windows))
    return maps


def draw_map(
    axes: Axes,
    bias_map: BiasMap,
    extent: tuple[float, float, float, float],
    colours: ScalarMappable,
) -> None:
    """Colour the cells that have a bias, and outline each query's window.

    ``extent`` is left, right, and the ordinates at the lower and upper edge of the picture; the
    map's first row lies at the smaller ordinate.
    """
    left, right, low, high = extent
    axes.imshow(
        bias_map.values,
        cmap=colours.get_cmap(),
        norm=colours.norm,
        extent=extent,
        origin='lower' if low < high else 'upper',
        interpolation='nearest',
        # Under a bias on all cells the picture must stay visible.
        alpha=0.55 if len(bias_map.windows) else 0.25,
        zorder=1.5,
    )
    rows, columns = bias_map.values.shape
    cell = np.array([(right - left) / columns, abs(high - low) / rows])
    for window in bias_map.windows.reshape(-1, 2, 2):
        corner, end = (left, min(low, high)) + window * cell
        outline = Rectangle(corner, *(end - corner), fill=False, ec='black', lw=0.6, zorder=1.6)
        axes.add_patch(outline)
