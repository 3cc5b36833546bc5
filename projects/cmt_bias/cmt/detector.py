"""The CMT detector: backbones of both sensors and the head."""

from collections.abc import Sequence
from typing import Any

from mmdet3d.models.detectors import MVXTwoStageDetector
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

from .frozen_modules import FrozenModulesMixin
from .grid_mask import GridMask
from .head import TaskOutputs
from .precision import autocast_off
from .sparse_encoder import encode_voxels


@MODELS.register_module()
class CmtDetector(FrozenModulesMixin, MVXTwoStageDetector):
    """Cross Modal Transformer (Yan et al., ICCV 2023).

    A sensor whose input is missing from a batch (no ``voxels`` or no ``imgs``) has no tokens. An
    empty point cloud is a BEV map of zeros.

    Args:
        use_grid_mask: Hide patches of images between a grid of stripes in training.
        frozen_modules: Dotted names of parts that are not trained, such as ``img_backbone`` or
            ``pts_bbox_head.shared_conv``: no gradient, no optimizer state, evaluation mode.
        frozen_statistics: Dotted names of parts whose batch normalization keeps its statistics
            (``norm_eval`` of mmdet's backbones, for any part); their weights train.
        kwargs: Arguments of mmdet3d's ``MVXTwoStageDetector``: the parts and ``train_cfg``,
            ``test_cfg``, ``data_preprocessor``, ``init_cfg``.

    Raises:
        ValueError: If ``frozen_modules`` or ``frozen_statistics`` names what is not there.
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

    def extract_img_feat(
        self, imgs: Tensor | None, batch_input_metas: Sequence[dict] | None = None
    ) -> list[Tensor] | None:
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
        """BEV maps ``(B, channels, H, W)``; all but the neck runs in float32.

        Args:
            voxel_dict: ``voxels``, ``num_points``, ``coors`` of mmdet3d's voxelization.
            batch_size: Samples in the batch, those without points included.
        """
        if voxel_dict is None or not hasattr(self, 'pts_voxel_encoder'):
            return None
        bev = encode_voxels(
            self.pts_voxel_encoder, self.pts_middle_encoder, voxel_dict, batch_size
        )
        with autocast_off(bev):
            features = self.pts_backbone(bev)
        return list(self.pts_neck(features) if self.with_pts_neck else features)

    def extract_feat(
        self, batch_inputs_dict: dict, batch_input_metas: Sequence[dict]
    ) -> tuple[list[Tensor] | None, list[Tensor] | None]:
        """Camera features and LiDAR features, None for a sensor that is missing.

        Args:
            batch_inputs_dict: ``voxels`` and ``imgs`` of the data preprocessor.
            batch_input_metas: Meta information of the samples.
        """
        return (
            self.extract_img_feat(batch_inputs_dict.get('imgs'), batch_input_metas),
            self.extract_pts_feat(batch_inputs_dict.get('voxels'), len(batch_input_metas)),
        )

    def loss(
        self, batch_inputs_dict: dict, batch_data_samples: list[Det3DDataSample], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Training losses of a batch."""
        metas = [sample.metainfo for sample in batch_data_samples]
        img_feats, pts_feats = self.extract_feat(batch_inputs_dict, metas)
        return self.pts_bbox_head.loss(pts_feats, img_feats, batch_data_samples, **kwargs)

    def predict(
        self, batch_inputs_dict: dict, batch_data_samples: list[Det3DDataSample], **kwargs: Any
    ) -> list[Det3DDataSample]:
        """Detect; the samples come back with ``pred_instances_3d``."""
        metas = [sample.metainfo for sample in batch_data_samples]
        img_feats, pts_feats = self.extract_feat(batch_inputs_dict, metas)
        results = self.pts_bbox_head.predict(pts_feats, img_feats, batch_data_samples, **kwargs)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(
        self, batch_inputs_dict: dict, batch_data_samples: list[Det3DDataSample]
    ) -> TaskOutputs:
        """The head's raw outputs, without losses or decoding."""
        metas = [sample.metainfo for sample in batch_data_samples]
        img_feats, pts_feats = self.extract_feat(batch_inputs_dict, metas)
        return self.pts_bbox_head(pts_feats, img_feats, metas)
