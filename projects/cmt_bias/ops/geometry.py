"""Windows of keys around each query, said by geometry: centre cells, radii and profiles.

The keys are the cells of maps, one after the other and each row-major: the BEV map, then each
camera's feature map. Such a map is called a segment.

Shape letters: B batch, Q queries, K keys, V views, S segments (BEV map and views).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Modality = Literal['lidar', 'camera']
MODALITIES: tuple[Modality, ...] = ('lidar', 'camera')

# Row of the centre cell in a segment in which a query has no window: out of every window's reach.
NOT_SEEN = -(2**20)


class Segment(NamedTuple):
    """A map of cells among the keys.

    Attributes:
        start: Its first key.
        rows: Rows of cells.
        columns: Columns of cells.
        modality: Number in :data:`MODALITIES`.
    """

    start: int
    rows: int
    columns: int
    modality: int


@dataclass(frozen=True)
class TokenLayout:
    """Which tokens the memory holds: the BEV map's, then those of each view.

    Attributes:
        bev_shape: ``(rows, columns)`` of the BEV map; None without LiDAR.
        num_views: V; 0 without cameras.
        view_shape: ``(rows, columns)`` of a view's feature map; None without cameras.

    Raises:
        ValueError: If a number is negative, or only one of views and their shape is given.
    """

    bev_shape: tuple[int, int] | None = None
    num_views: int = 0
    view_shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if (self.num_views > 0) != (self.view_shape is not None):
            raise ValueError(f'num_views and view_shape go together, got {self}.')
        if min(self.num_views, *(self.bev_shape or (1,)), *(self.view_shape or (1,))) < 0:
            raise ValueError(f'sizes must not be negative, got {self}.')

    @property
    def num_lidar_tokens(self) -> int:
        """Tokens of the LiDAR, the first of the memory."""
        return math.prod(self.bev_shape) if self.bev_shape else 0

    @property
    def num_camera_tokens(self) -> int:
        """Tokens of all views."""
        return self.num_views * math.prod(self.view_shape) if self.view_shape else 0

    @property
    def num_tokens(self) -> int:
        """K."""
        return self.num_lidar_tokens + self.num_camera_tokens

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The maps, in the order of the tokens."""
        bev = () if self.bev_shape is None else (Segment(0, *self.bev_shape, 0),)
        if self.view_shape is None:
            return bev
        rows, columns = self.view_shape
        starts = range(self.num_lidar_tokens, self.num_tokens, rows * columns)
        return *bev, *(Segment(start, rows, columns, 1) for start in starts)


@dataclass(frozen=True)
class Window:
    """Size and profile of a modality's window.

    Attributes:
        radius: Cells from the middle of the window to its sides; None for the whole modality.
        sigma: Cells; a cell at distance ``d`` of the window's middle cell has the gain
            ``exp(-d^2 / (2 sigma^2))``. None gives every cell the gain 1.
    """

    radius: int | None
    sigma: float | None = None

    @property
    def size(self) -> int | None:
        """Cells along each side; None for the whole modality."""
        return None if self.radius is None else 2 * self.radius + 1


@dataclass(frozen=True)
class QueryWindows:
    """The windows of each query of a batch.

    Attributes:
        layout: The keys.
        cells: ``(B, Q, S, 2)`` int32 middle cell ``(row, column)`` of the window in each segment;
            the row is :data:`NOT_SEEN` in segments in which the query has none. Not read in a
            modality whose window is the whole modality.
        shapes: Window of the LiDAR and of the cameras.
    """

    layout: TokenLayout
    cells: Tensor
    shapes: tuple[Window, Window]

    def of_queries(self, queries: slice | Tensor) -> 'QueryWindows':
        """The windows of some queries."""
        return replace(self, cells=self.cells[:, queries])

    def has_whole_modality(self) -> bool:
        """Whether a modality that is there has no window but counts as a whole."""
        return any(
            self.shapes[segment.modality].radius is None for segment in self.layout.segments
        )

    def gain(self, dtype: torch.dtype) -> Tensor:
        """``(B, Q, K)`` the windows' profiles; 0 outside."""
        parts = [along_rows * along_columns for along_rows, along_columns in self._profiles(dtype)]
        return torch.cat([part.flatten(2) for part in parts], dim=-1)

    def to_mask(self) -> Tensor:
        """``(B, Q, K)`` True for the keys in a query's windows and in whole modalities."""
        lidar, camera = (replace(window, sigma=None) for window in self.shapes)
        return replace(self, shapes=(lidar, camera)).gain(torch.uint8).bool()

    def _profiles(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """For each segment the profiles along its axes, ``(B, Q, h, 1)`` and ``(B, Q, 1, w)``."""
        for cell, segment in zip(self.cells.unbind(2), self.layout.segments, strict=True):
            window = self.shapes[segment.modality]
            row, column = cell.unbind(-1)
            yield (
                _profile(row, segment.rows, window, dtype).unsqueeze(-1),
                _profile(column, segment.columns, window, dtype).unsqueeze(-2),
            )


def _profile(middle: Tensor, size: int, window: Window, dtype: torch.dtype) -> Tensor:
    """``(B, Q, size)`` a window's profile along one axis; a Gaussian is the product of two."""
    distance = torch.arange(size, device=middle.device) - middle.unsqueeze(-1)
    if window.radius is None:
        return torch.ones_like(distance, dtype=dtype)
    profile = (distance.abs() <= window.radius).to(dtype)
    if window.sigma is not None:
        profile = profile * torch.exp(distance.to(dtype) ** 2 / (-2 * window.sigma**2))
    return profile


@dataclass(frozen=True)
class WindowedBias:
    """An additive bias on attention's logits that is zero outside each query's windows.

    The bias of query q on key k of modality m is ``strength[q, m] * gain(k, q)``, the gain being
    the window's profile. It is the same for all heads.

    Attributes:
        windows: The windows.
        strength: ``(B, Q, 2)`` on LiDAR and cameras, best in float32 whatever the type of the
            queries; that of a modality that is not there is not used. ``(L, B, Q, 2)`` where
            decoder layers differ: attention takes that of one layer.
    """

    windows: QueryWindows
    strength: Tensor

    def of_layer(self, layer: int) -> 'WindowedBias':
        """The bias in one decoder layer; itself where layers do not differ."""
        return self if self.strength.dim() == 3 else replace(self, strength=self.strength[layer])

    def of_queries(self, queries: slice | Tensor) -> 'WindowedBias':
        """The bias of some queries."""
        return WindowedBias(self.windows.of_queries(queries), self.strength[:, queries])
