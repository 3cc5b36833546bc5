"""Batches whose point clouds fill too few voxels for the LiDAR encoders."""

import torch
from torch import Tensor

# Batch normalization needs two rows in training, sparse convolution one.
MIN_VOXELS = 2


def add_placeholder_voxels(
    voxel_dict: dict[str, Tensor], batch_size: int
) -> tuple[dict[str, Tensor], int]:
    """Give a batch with almost no voxels an additional sample of empty ones.

    A missing LiDAR leaves no voxel at all, on which spconv and batch normalization raise. The
    placeholder voxels hold zeros and lie in a sample of their own, behind the real ones; whoever
    calls this drops that sample from the dense map. An empty cloud so becomes the map of a sparse
    tensor without active sites: zeros.

    Args:
        voxel_dict: ``voxels`` ``(N, points, values)``, ``num_points`` ``(N,)`` and ``coors``
            ``(N, 4)`` (sample, z, y, x).
        batch_size: Samples in the batch.

    Returns:
        The voxels and the number of samples to encode: the batch size, or one more.
    """
    missing = MIN_VOXELS - len(voxel_dict['coors'])
    if missing <= 0:
        return voxel_dict, batch_size
    voxels, num_points, coors = (voxel_dict[key] for key in ('voxels', 'num_points', 'coors'))
    new_coors = coors.new_zeros(missing, 4)
    new_coors[:, 0] = batch_size
    new_coors[:, -1] = torch.arange(missing, device=coors.device)
    padded = dict(
        voxel_dict,
        voxels=torch.cat((voxels, voxels.new_zeros(missing, *voxels.shape[1:]))),
        num_points=torch.cat((num_points, num_points.new_ones(missing))),
        coors=torch.cat((coors, new_coors)),
    )
    return padded, batch_size + 1
