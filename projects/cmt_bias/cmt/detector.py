"""The CMT detector: backbones of both sensors and the head."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet3d.models.detectors import MVXTwoStageDetector
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

from .frozen_modules import FrozenModulesMixin
from .head import TaskOutputs
from .image_branch import GridMask
from .precision import autocast_off

# Batch normalization needs two rows in training, sparse convolution one.
MIN_VOXELS = 2


@MODELS.register_module()
class CmtDetector(FrozenModulesMixin, MVXTwoStageDetector):
    """Cross Modal Transformer (Yan et al., ICCV 2023).

    A sensor whose input is missing from a batch (``voxels``, ``imgs``) has no tokens. An empty
    point cloud is a BEV map of zeros.

    Args:
        use_grid_mask: Hide patches of images in training, see :class:`GridMask`.
        frozen_modules: Dotted names of parts that are not trained, such as ``img_backbone`` or
            ``pts_bbox_head.shared_conv``: no gradient, no optimizer state, evaluation mode.
        frozen_statistics: Dotted names of parts whose batch normalization keeps its statistics
            (``norm_eval`` of mmdet's backbones, for any part); their weights train.
        kwargs: Arguments of mmdet3d's ``MVXTwoStageDetector``.
    """

    def __init__(
        self,
        use_grid_mask: bool = False,
        frozen_modules: Sequence[str] = (),
        frozen_statistics: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.grid_mask = GridMask() if use_grid_mask else None
        self.freeze(frozen_modules, frozen_statistics)

    def extract_img_feat(self, imgs: Tensor | None, *_: Any) -> list[Tensor] | None:
        """Feature levels ``(B * V, C, h, w)`` of ``(B, V, 3, H, W)`` normalized images."""
        if imgs is None or not self.with_img_backbone:
            return None
        imgs = imgs.flatten(0, 1)
        if self.grid_mask is not None:
            imgs = self.grid_mask(imgs)
        features = self.img_backbone(imgs)
        return list(self.img_neck(features) if self.with_img_neck else features)

    def extract_pts_feat(
        self, voxel_dict: dict[str, Tensor] | None, batch_size: int
    ) -> list[Tensor] | None:
        """BEV maps ``(B, channels, H, W)`` of mmdet3d's voxels; all but the neck in float32."""
        if voxel_dict is None or not hasattr(self, 'pts_voxel_encoder'):
            return None
        with autocast_off(voxel_dict['voxels']):
            features = self.pts_backbone(self._bev_map(voxel_dict, batch_size))
        return list(self.pts_neck(features) if self.with_pts_neck else features)

    def _bev_map(self, voxel_dict: dict[str, Tensor], batch_size: int) -> Tensor:
        """``(batch_size, channels, H, W)`` of the LiDAR encoders, zeros for empty clouds.

        Without voxels spconv and batch normalization raise. So a batch with almost none gets some
        that hold zeros, in a sample of their own behind the real ones, which is dropped again.

        On the CPU the middle encoder runs on one thread: spconv 2.3.8 adds up products there
        without locks, and with two threads loses 0.1 to 0.5 % of the output on a nuScenes frame.
        """
        voxels, num_points, coors = (voxel_dict[key] for key in ('voxels', 'num_points', 'coors'))
        missing = max(MIN_VOXELS - len(coors), 0)
        if missing:
            placeholders = coors.new_zeros(missing, 4)  # sample, z, y, x
            placeholders[:, 0] = batch_size
            placeholders[:, -1] = torch.arange(missing, device=coors.device)
            coors = torch.cat((coors, placeholders))
            voxels = torch.cat((voxels, voxels.new_zeros(missing, *voxels.shape[1:])))
            num_points = torch.cat((num_points, num_points.new_ones(missing)))
        features = self.pts_voxel_encoder(voxels.float(), num_points, coors).float()
        threads = torch.get_num_threads()
        if features.device.type == 'cpu':
            torch.set_num_threads(1)
        try:
            samples = batch_size + bool(missing)
            return self.pts_middle_encoder(features, coors, samples)[:batch_size]
        finally:
            torch.set_num_threads(threads)

    def extract_feat(
        self, batch_inputs_dict: dict, batch_input_metas: Sequence[dict]
    ) -> tuple[list[Tensor] | None, list[Tensor] | None]:
        """Features of ``imgs`` and of ``voxels``; None for a sensor that is missing."""
        img_feats = self.extract_img_feat(batch_inputs_dict.get('imgs'))
        voxels = batch_inputs_dict.get('voxels')
        return img_feats, self.extract_pts_feat(voxels, len(batch_input_metas))

    def loss(
        self, batch_inputs_dict: dict, batch_data_samples: list[Det3DDataSample]
    ) -> dict[str, Tensor]:
        """Training losses of a batch."""
        metas = [sample.metainfo for sample in batch_data_samples]
        img_feats, pts_feats = self.extract_feat(batch_inputs_dict, metas)
        return self.pts_bbox_head.loss(pts_feats, img_feats, batch_data_samples)

    def predict(
        self, batch_inputs_dict: dict, batch_data_samples: list[Det3DDataSample]
    ) -> list[Det3DDataSample]:
        """Detect; the samples come back with ``pred_instances_3d``."""
        metas = [sample.metainfo for sample in batch_data_samples]
        img_feats, pts_feats = self.extract_feat(batch_inputs_dict, metas)
        results = self.pts_bbox_head.predict(pts_feats, img_feats, batch_data_samples)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(
        self, batch_inputs_dict: dict, batch_data_samples: list[Det3DDataSample]
    ) -> TaskOutputs:
        """The head's raw outputs, without losses or decoding."""
        metas = [sample.metainfo for sample in batch_data_samples]
        img_feats, pts_feats = self.extract_feat(batch_inputs_dict, metas)
        return self.pts_bbox_head(pts_feats, img_feats, metas)
