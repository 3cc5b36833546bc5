"""Inputs shared by the tests of this folder."""

import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from .golden_head import metas


@pytest.fixture
def tiny_batch() -> tuple[list, list, list[dict]]:
    """Features, calibration and boxes of two samples, in the shapes of the tiny recipe."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, 6, 9, generator=generator) * 4 + torch.tensor([5.0, -3, -1] + [0] * 6)
    instances = [
        InstanceData(bboxes_3d=LiDARInstance3DBoxes(sample, box_dim=9), labels_3d=torch.arange(6))
        for sample in boxes
    ]
    img_metas = metas(instances)
    views = len(img_metas[0]['lidar2img'])
    for meta in img_metas:
        meta['pad_shape'] = (96, 256)
    bev = torch.randn(2, 128, 40, 40, generator=generator)
    camera = torch.randn(2 * views, 64, 6, 16, generator=generator)
    return [bev], [camera], img_metas
