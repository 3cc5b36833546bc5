"""From voxels to a BEV map, by the LiDAR encoders that the recipes name."""

import torch
from torch import Tensor, nn

from .precision import autocast_off

# Batch normalization needs two rows in training, sparse convolution one.
MIN_VOXELS = 2


def encode_voxels(
    voxel_encoder: nn.Module,
    middle_encoder: nn.Module,
    voxel_dict: dict[str, Tensor],
    batch_size: int,
) -> Tensor:
    """Run the encoders, in float32, also on a batch of empty clouds.

    A missing LiDAR leaves no voxel at all, on which spconv and batch normalization raise. So a
    batch with almost no voxels gets some that hold zeros, in a sample of their own behind the real
    ones, which is dropped from the map. An empty cloud so becomes what a sparse tensor without
    active sites is: zeros.

    On the CPU the middle encoder runs on one thread: spconv 2.3.8 adds up the products of a
    sparse convolution there without locks, and with two threads some are lost, 0.1 to 0.5 % of
    the output on a nuScenes frame, others in each run.

    Args:
        voxel_encoder: Makes features ``(N, channels)`` of the voxels' points.
        middle_encoder: Makes a map ``(samples, channels, H, W)`` of them.
        voxel_dict: ``voxels`` ``(N, points, values)``, ``num_points`` ``(N,)`` and ``coors``
            ``(N, 4)`` (sample, z, y, x) of mmdet3d's voxelization.
        batch_size: Samples in the batch, those without points included.

    Returns:
        ``(batch_size, channels, H, W)``.
    """
    voxels, num_points, coors = (voxel_dict[key] for key in ('voxels', 'num_points', 'coors'))
    missing = max(MIN_VOXELS - len(coors), 0)
    if missing:
        placeholders = coors.new_zeros(missing, 4)
        placeholders[:, 0] = batch_size
        placeholders[:, -1] = torch.arange(missing, device=coors.device)
        coors = torch.cat((coors, placeholders))
        voxels = torch.cat((voxels, voxels.new_zeros(missing, *voxels.shape[1:])))
        num_points = torch.cat((num_points, num_points.new_ones(missing)))
    with autocast_off(voxels):
        features = voxel_encoder(voxels.float(), num_points, coors).float()
        threads = torch.get_num_threads()
        if features.device.type == 'cpu':
            torch.set_num_threads(1)
        try:
            return middle_encoder(features, coors, batch_size + bool(missing))[:batch_size]
        finally:
            torch.set_num_threads(threads)
