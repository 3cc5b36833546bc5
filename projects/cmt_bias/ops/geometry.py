"""Windows of keys around each query, said by geometry: centre cells, radii and profiles.

The keys are the cells of maps, one after the other and each row-major: the BEV map, then each
camera's feature map. Such a map is called a segment.

Shape letters: B batch, Q queries, K keys, S segments, H heads, D channels of a head.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Modality = Literal['lidar', 'camera']
MODALITIES: tuple[Modality, ...] = ('lidar', 'camera')

# Row of the centre cell in a segment in which a query has no window: out of every window's reach.
NOT_SEEN = -(2**20)
# A radius, among numbers, that reaches even from there: the whole modality.
EVERYWHERE = 2**24
# With so many strips of a map 64 of some thousand queries, those of a tile, fill about a square.
_NUM_STRIPS = 6


class Segment(NamedTuple):
    """A map of cells among the keys, from ``start``; the modality counts in MODALITIES."""

    start: int
    rows: int
    columns: int
    modality: int


@dataclass(frozen=True)
class TokenLayout:
    """Which tokens the memory holds: the BEV map's, then those of each view.

    Attributes:
        bev_shape: ``(rows, columns)`` of the BEV map; None without LiDAR.
        num_views: 0 without cameras.
        view_shape: ``(rows, columns)`` of a view's feature map; None without cameras.

    Raises:
        ValueError: If a map has no cells, only one of views and their shape is given, or nothing.
    """

    bev_shape: tuple[int, int] | None = None
    num_views: int = 0
    view_shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if (self.num_views > 0) != (self.view_shape is not None):
            raise ValueError(f'num_views and view_shape go together, got {self}.')
        sizes = *(self.bev_shape or ()), *(self.view_shape or ()), self.num_views + 1
        if min(*sizes, self.num_tokens) < 1:
            raise ValueError(f'sizes must be positive, got {self}.')

    @property
    def num_lidar_tokens(self) -> int:
        """Tokens of the LiDAR, the first of the memory."""
        return math.prod(self.bev_shape) if self.bev_shape else 0

    @property
    def num_tokens(self) -> int:
        """K."""
        return self.num_lidar_tokens + self.num_views * math.prod(self.view_shape or ())

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The maps, in the order of the tokens."""
        bev = () if self.bev_shape is None else (Segment(0, *self.bev_shape, 0),)
        if self.view_shape is None:
            return bev
        starts = range(self.num_lidar_tokens, self.num_tokens, math.prod(self.view_shape))
        return *bev, *(Segment(start, *self.view_shape, 1) for start in starts)


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

    def profile(self, middle: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        """``(B, Q, size)`` gain along one axis; a Gaussian is the product of two."""
        distance = torch.arange(size, device=middle.device) - middle.unsqueeze(-1)
        if self.radius is None:
            return torch.ones_like(distance, dtype=dtype)
        profile = (distance.abs() <= self.radius).to(dtype)
        if self.sigma is not None:
            profile = profile * torch.exp(distance.to(dtype) ** 2 / (-2 * self.sigma**2))
        return profile


@dataclass(frozen=True)
class QueryWindows:
    """The windows of each query of a batch.

    Attributes:
        layout: The keys.
        cells: ``(B, Q, S, 2)`` int32 middle cell ``(row, column)`` of the window in each segment;
            the row is :data:`NOT_SEEN` in segments in which the query has none. Not read in a
            modality whose window is the whole modality.
        shapes: Window of the LiDAR and of the cameras.
        order: ``(B, Q)`` int32 a sample's queries, each once (not checked), neighbours with
            windows near each other: so the fused kernels need the bias in few tiles. None for as
            they come.
    """

    layout: TokenLayout
    cells: Tensor
    shapes: tuple[Window, Window]
    order: Tensor | None = None

    def of_queries(self, queries: slice | Tensor) -> 'QueryWindows':
        """The windows of some queries, which have no order."""
        return replace(self, cells=self.cells[:, queries], order=None)

    def sorted(self) -> 'QueryWindows':
        """The same with an order: along strips of rows, to and fro.

        A query's place is that in the first segment in which it has a window.
        """
        first = (self.cells[..., 0] >= 0).int().argmax(-1)[..., None, None]
        row, column = self.cells.gather(2, first.expand(-1, -1, 1, 2))[:, :, 0].long().unbind(-1)
        strip = first[..., 0, 0] * 2**24 + row // -(-self.layout.segments[0].rows // _NUM_STRIPS)
        place = strip * 2**24 + column.where(strip % 2 == 0, -column)
        return replace(self, order=place.argsort(dim=-1, stable=True).int())

    def has_whole_modality(self) -> bool:
        """Whether a modality that is there has no window but counts as a whole."""
        return any(self.shapes[part.modality].radius is None for part in self.layout.segments)

    def gain(self, dtype: torch.dtype) -> Tensor:
        """``(B, Q, K)`` the windows' profiles; 0 outside."""
        gains = []
        for cell, segment in zip(self.cells.unbind(2), self.layout.segments, strict=True):
            window, (row, column) = self.shapes[segment.modality], cell.unbind(-1)
            down = window.profile(row, segment.rows, dtype).unsqueeze(-1)
            right = window.profile(column, segment.columns, dtype).unsqueeze(-2)
            gains.append((down * right).flatten(2))
        return torch.cat(gains, dim=-1)

    def to_mask(self) -> Tensor:
        """``(B, Q, K)`` True for the keys in a query's windows and in whole modalities."""
        lidar, camera = (Window(window.radius) for window in self.shapes)
        return replace(self, shapes=(lidar, camera)).gain(torch.uint8).bool()


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


class AttentionInputs(NamedTuple):
    """What a backend gets: contiguous tensors, and the windows in tensors and numbers.

    Attributes:
        query: ``(B, Q, H, D)``.
        key: ``(B, K, H, D)``.
        value: ``(B, K, H, D)``.
        cells: ``(B, Q, S, 2)`` int32, of :class:`QueryWindows`.
        strength: ``(B, Q, 2)`` of the bias; None for attention to the keys in windows alone.
        order: ``(B, Q)`` int32 or None, of :class:`QueryWindows`.
        sizes: Rows and columns of the BEV map, number of views, rows and columns of a view, radius
            of the windows on LiDAR and cameras. 0 where there is no such map.
        sigmas: Of the windows on LiDAR and cameras; 0 for none.
        scale: Factor on the products of queries and keys.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    cells: Tensor
    strength: Tensor | None
    order: Tensor | None
    sizes: list[int]
    sigmas: list[float]
    scale: float

    @staticmethod
    def numbers_of(windows: QueryWindows) -> tuple[list[int], list[float]]:
        """``sizes`` and ``sigmas``."""
        layout, shapes = windows.layout, windows.shapes
        radii = (EVERYWHERE if window.radius is None else window.radius for window in shapes)
        bev, view = layout.bev_shape or (0, 0), layout.view_shape or (0, 0)
        # a whole modality has no profile
        sigmas = [0.0 if window.radius is None else window.sigma or 0.0 for window in shapes]
        return [*bev, layout.num_views, *view, *radii], sigmas

    @property
    def windows(self) -> QueryWindows:
        """The inverse of :meth:`numbers_of`."""
        rows, columns, num_views, *view, lidar_radius, camera_radius = self.sizes
        lidar, camera = (
            Window(None if radius >= EVERYWHERE else radius, sigma or None)
            for radius, sigma in zip((lidar_radius, camera_radius), self.sigmas, strict=True)
        )
        bev = (rows, columns) if rows else None
        layout = TokenLayout(bev, num_views, (view[0], view[1]) if num_views else None)
        return QueryWindows(layout, self.cells, (lidar, camera))
