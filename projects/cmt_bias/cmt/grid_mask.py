"""GridMask augmentation of camera images, on whatever device they are."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


def stripe_indicator(positions: Tensor, period: int, width: int, start: int, end: int) -> Tensor:
    """Tell which positions along an axis lie in a stripe.

    Stripe i covers `[start + i * period, start + i * period + width)` for the
    `end // period` stripes that begin with i = 0.

    Args:
        positions: Integer positions along the axis, any shape, in pixels.
        period: Distance between the beginnings of stripes, in pixels.
        width: Width of a stripe, in pixels, less than `period`.
        start: Beginning of the first stripe, in pixels, less than `period`.
        end: Length of the axis, in pixels.

    Returns:
        Boolean tensor of the same shape.
    """
    offset = positions - start
    stripe = torch.div(offset, period, rounding_mode='floor')
    return (offset >= 0) & (offset - stripe * period < width) & (stripe < end // period)


class Grid(NamedTuple):
    """A grid of stripes on a canvas.

    Attributes:
        period: Distance between the beginnings of stripes, in pixels.
        stripe_width: Width of a stripe, in pixels, less than `period`.
        start_row: First row of the first horizontal stripe.
        start_column: First column of the first vertical stripe.
        angle: Counter-clockwise rotation about the centre of the canvas, in degrees.
    """

    period: int
    stripe_width: int
    start_row: int
    start_column: int
    angle: int


def covered_pixels(
    grid: Grid, height: int, width: int, use_h: bool, use_w: bool, device: torch.device
) -> Tensor:
    """Pixels of an image on which stripes lie.

    The grid is laid on a canvas 1.5 times the image in both directions and rotated; where the
    rotation uncovers what is outside the canvas counts as covered. The image is its middle.

    Args:
        grid: The grid.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        use_h: Whether there are horizontal stripes.
        use_w: Whether there are vertical stripes.
        device: Where to compute.

    Returns:
        Boolean (height, width).
    """
    canvas_height, canvas_width = int(1.5 * height), int(1.5 * width)
    rows = torch.arange(height, device=device)[:, None] + (canvas_height - height) // 2
    columns = torch.arange(width, device=device)[None, :] + (canvas_width - width) // 2
    if grid.angle:
        rows, columns = _rotated_source(rows, columns, canvas_height, canvas_width, grid.angle)
    covered = (rows < 0) | (rows >= canvas_height) | (columns < 0) | (columns >= canvas_width)
    if use_h:
        covered = covered | stripe_indicator(
            rows, grid.period, grid.stripe_width, grid.start_row, canvas_height
        )
    if use_w:
        covered = covered | stripe_indicator(
            columns, grid.period, grid.stripe_width, grid.start_column, canvas_width
        )
    return covered


class GridMask(nn.Module):
    """Cover images with a regular grid (Chen et al., 2020), in training mode only.

    One grid is drawn per call and used for every image of the batch, on a canvas 1.5 times the
    image, rotated about its centre and cropped to the image, as in the released code. Random
    numbers come from numpy's global generator, drawn in the released order, so that a seed gives
    the same grids as there; nothing is drawn in eval mode.

    Args:
        use_h: Whether the grid has horizontal stripes.
        use_w: Whether the grid has vertical stripes.
        rotate: Upper bound (exclusive) of the rotation, in whole degrees; 1 means none.
        offset: Whether covered pixels get uniform noise in [-1, 1) instead of zero.
        ratio: Width of a stripe as a share of the grid's period.
        mode: 0 covers the stripes; 1 keeps the stripes and covers the rest.
        prob: Probability of using a grid at all.

    Raises:
        ValueError: When `mode`, `rotate`, `ratio` or `prob` is out of its range.
    """

    def __init__(
        self,
        use_h: bool,
        use_w: bool,
        rotate: int = 1,
        offset: bool = False,
        ratio: float = 0.5,
        mode: int = 0,
        prob: float = 1.0,
    ) -> None:
        super().__init__()
        if mode not in (0, 1):
            raise ValueError(f'GridMask: mode={mode} must be 0 or 1')
        if rotate < 1:
            raise ValueError(f'GridMask: rotate={rotate} must be at least 1 (1 means no rotation)')
        if not 0 <= ratio <= 1:
            raise ValueError(f'GridMask: ratio={ratio} must lie in [0, 1]')
        if not 0 <= prob <= 1:
            raise ValueError(f'GridMask: prob={prob} must lie in [0, 1]')
        self.use_h = use_h
        self.use_w = use_w
        self.rotate = rotate
        self.offset = offset
        self.ratio = ratio
        self.mode = mode
        self.initial_prob = prob
        self.prob = prob

    def set_prob(self, epoch: int, max_epoch: int) -> None:
        """Scale the probability linearly with the epoch, to reach `prob` at `max_epoch`."""
        self.prob = self.initial_prob * epoch / max_epoch

    def forward(self, images: Tensor) -> Tensor:
        """Cover images with a random grid.

        Args:
            images: (N, C, H, W), H at least 3.

        Returns:
            Tensor of the same shape, dtype and device; the input itself where nothing is done.

        Raises:
            ValueError: When the images are less than 3 pixels high.
        """
        if not self.training or np.random.rand() > self.prob:
            return images
        height, width = images.shape[-2:]
        if height < 3:
            raise ValueError(f'GridMask: images of height {height} are too small for a grid')
        grid = self._draw_grid(height)
        covered = covered_pixels(grid, height, width, self.use_h, self.use_w, images.device)
        keep = (covered if self.mode == 1 else ~covered).to(images.dtype)
        if not self.offset:
            return images * keep
        noise = torch.from_numpy(2 * (np.random.rand(height, width) - 0.5)).to(images)
        return images * keep + noise * (1 - keep)

    def _draw_grid(self, height: int) -> Grid:
        period = np.random.randint(2, height)
        return Grid(
            period=period,
            stripe_width=min(max(int(period * self.ratio + 0.5), 1), period - 1),
            start_row=np.random.randint(period),
            start_column=np.random.randint(period),
            angle=np.random.randint(self.rotate),
        )


def _rotated_source(
    rows: Tensor, columns: Tensor, canvas_height: int, canvas_width: int, angle: int
) -> tuple[Tensor, Tensor]:
    """Pixels of the canvas that a counter-clockwise rotation brings to the given ones.

    Args:
        rows: (H, 1) target rows.
        columns: (1, W) target columns.
        canvas_height: Height of the canvas, in pixels.
        canvas_width: Width of the canvas, in pixels.
        angle: Degrees.

    Returns:
        Source rows and columns, each (H, W), nearest neighbour, possibly outside the canvas.
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # float64: the half-pixel arithmetic must round as on the CPU reference, also on a GPU
    y = rows.double() + 0.5 - canvas_height / 2
    x = columns.double() + 0.5 - canvas_width / 2
    source_x = cosine * x - sine * y + canvas_width / 2
    source_y = sine * x + cosine * y + canvas_height / 2
    return source_y.floor().long(), source_x.floor().long()
