"""Weights and inputs made by a formula in whole numbers, hence the same on every machine."""

import torch
from torch import Tensor, nn


def pseudo_random_values(shape: tuple[int, ...], stream: int) -> Tensor:
    """Values spread evenly over [-1, 1), from a multiplicative hash of their positions.

    Args:
        shape: Shape of the result.
        stream: Whole number; another one gives other values.

    Returns:
        float32 tensor.
    """
    position = torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.int64)
    hashed = (position * 2654435761 + stream * 40503 * 65537) % 4294967296
    hashed = ((hashed ^ (hashed >> 15)) * 2246822519) % 4294967296
    hashed = ((hashed ^ (hashed >> 13)) * 3266489917) % 4294967296
    return (hashed.double() / 2147483648 - 1).float().reshape(shape)


def fill_with_pseudo_random_values(module: nn.Module) -> None:
    """Set all weights so that activations keep their scale through any number of layers."""
    for stream, (name, tensor) in enumerate(sorted(module.state_dict().items())):
        if name.endswith('num_batches_tracked'):
            continue
        values = pseudo_random_values(tuple(tensor.shape), stream)
        if tensor.dim() > 1:
            values *= (6 / tensor[0].numel()) ** 0.5
        elif name.endswith('running_var') or (name.endswith('weight') and tensor.dim() == 1):
            values = 1 + 0.2 * values
        else:
            values *= 0.1
        tensor.copy_(values)
