"""Groups of neighbouring windows."""

import torch

from cmt_bias.ops.grouped_windows import group_windows
from cmt_bias.ops.window_groups import SlotBlock, find_blocks


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
    plan = group_windows((row * columns + column).flatten(2), rows * columns)
    fetched = sum(len(chunk.key_rows) for chunk in plan.chunks)
    assert fetched < 0.3 * len(plan.slot)
