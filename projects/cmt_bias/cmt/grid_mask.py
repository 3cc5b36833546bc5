"""GridMask augmentation of camera images, on whatever device they are."""

import numpy as np
import torch
from torch import Tensor, nn


class GridMask(nn.Module):
    """Keep a regular grid of stripes of images and hide the rest (Chen et al., 2020), in training.

    One grid is drawn per call and used for every image of the batch, on a canvas 1.5 times the
    image of which the image is the middle, as in the released code with CMT's settings. Random
    numbers come from numpy's global generator, in the released order, so that a seed gives the
    same grids as there; nothing is drawn in eval mode.

    Args:
        ratio: Width of a stripe as a share of the grid's period.
        prob: Probability of using a grid at all.
    """

    def __init__(self, ratio: float = 0.5, prob: float = 0.7) -> None:
        super().__init__()
        self.ratio = ratio
        self.prob = prob

    def forward(self, images: Tensor) -> Tensor:
        """Hide what lies in no stripe of a random grid; images are ``(N, C, H, W)``, H above 2."""
        if not self.training or np.random.rand() > self.prob:
            return images
        height, width = images.shape[-2:]
        period = np.random.randint(2, height)
        stripe = min(max(int(period * self.ratio + 0.5), 1), period - 1)
        in_stripe = []  # for each axis, which of its pixels lie in a stripe of the canvas
        for size in (height, width):
            canvas = int(1.5 * size)
            first = (canvas - size) // 2 - np.random.randint(period)
            offset = torch.arange(size, device=images.device) + first
            number = torch.div(offset, period, rounding_mode='floor')
            is_inside = (offset >= 0) & (number < canvas // period)
            in_stripe.append(is_inside & (offset - number * period < stripe))
        rows, columns = in_stripe
        return images * (rows[:, None] | columns).to(images.dtype)
