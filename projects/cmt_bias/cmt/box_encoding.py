"""Boxes in metres and the ten values that CMT regresses for each of them."""

import torch
from torch import Tensor

# Values of an encoded box: cx, cy, log w, log l, cz, log h, sin yaw, cos yaw, vx, vy.
ENCODED_BOX_SIZE = 10
# Velocities are left out of the matching cost.
MATCHED_BOX_SIZE = 8


def encode_boxes(boxes: Tensor) -> Tensor:
    """Encode boxes as regression targets.

    The head's branches are concatenated as center (2), height (1), dim (3), rot (2), vel (2), so
    the branch called ``height`` learns the log of the first size and the last value of ``dim``
    that of the last. This naming quirk is part of the released checkpoints and is kept.

    Args:
        boxes: ``(..., 9)`` gravity centre x, y, z, three sizes in metres, yaw in radians,
            velocity vx, vy in m/s; LiDAR frame.

    Returns:
        ``(..., 10)``: cx, cy, log size_0, log size_1, cz, log size_2, sin yaw, cos yaw, vx, vy.
    """
    center, sizes, yaw, velocity = boxes.split((3, 3, 1, 2), dim=-1)
    (xy, z), (log_size_01, log_size_2) = (v.split((2, 1), dim=-1) for v in (center, sizes.log()))
    return torch.cat((xy, log_size_01, z, log_size_2, yaw.sin(), yaw.cos(), velocity), dim=-1)


def decode_boxes(encoded: Tensor) -> Tensor:
    """Invert :func:`encode_boxes`: ``(..., 10)`` to ``(..., 9)`` with yaw in (-pi, pi]."""
    xy, log_size_01, z, log_size_2, sine, cosine, velocity = encoded.split(
        (2, 2, 1, 1, 1, 1, 2), dim=-1
    )
    yaw = torch.atan2(sine, cosine)
    return torch.cat((xy, z, log_size_01.exp(), log_size_2.exp(), yaw, velocity), dim=-1)
