"""A head that teaches both branches of a detector what each of their cells shows."""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet.models.losses import FocalLoss, L1Loss
from mmdet3d.models.dense_heads import CenterHead
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..cmt.precision import autocast_off
from .camera_targets import CameraTargets, camera_targets

PRIOR_LOGIT = -2.19
"""Start of the class logits: a probability of a tenth, as in CenterPoint."""


@MODELS.register_module()
class DensePretrainingHead(BaseModule):
    """CenterPoint's head on the BEV map, and beside it one on the camera cells.

    In the place of CMT's head, so that the checkpoint's parts have the names they have in CMT:
    ``load_from`` takes backbones, necks and ``pts_bbox_head.shared_conv`` over. Both branches
    predict from what CMT takes for tokens, a cell by itself: what a cell knows then lies in its
    token. For a camera cell that is the class of the object in it (focal loss), and the logs of
    its depth and size (L1 loss), see :func:`camera_targets`.

    Args:
        camera_channels: Channels of the camera features.
        kwargs: Arguments of mmdet3d's :class:`CenterHead`, whose shared convolution is CMT's.
    """

    def __init__(self, camera_channels: int, **kwargs: Any) -> None:
        super().__init__()
        self.bev = CenterHead(**kwargs)
        self.shared_conv = self.bev.shared_conv
        self.camera_num_classes = sum(self.bev.num_classes)
        self.camera_hidden = ConvModule(camera_channels, camera_channels, 1)
        self.camera_cls = nn.Conv2d(camera_channels, self.camera_num_classes, 1)
        self.camera_reg = nn.Conv2d(camera_channels, 4, 1)
        self.camera_loss_cls = FocalLoss(use_sigmoid=True)
        self.camera_loss_reg = L1Loss(loss_weight=0.5)

    def init_weights(self) -> None:
        """Initialize, the shared convolution once; the class logits start at their prior."""
        self.bev.init_weights()
        self.camera_hidden.init_weights()
        assert self.camera_cls.bias is not None
        nn.init.constant_(self.camera_cls.bias, PRIOR_LOGIT)

    def loss(
        self,
        pts_feats: Sequence[Tensor],
        img_feats: Sequence[Tensor],
        batch_data_samples: Sequence,
    ) -> dict[str, Tensor]:
        """CenterPoint's losses, ``camera.loss_cls``, ``camera.loss_depth``, ``camera.loss_size``.

        Args:
            pts_feats: One BEV map ``(B, in_channels, H, W)``.
            img_feats: Camera features ``(B * V, C, h, w)``, of which the first level is used.
            batch_data_samples: ``Det3DDataSample`` with ``gt_instances_3d``, ``lidar2img`` and
                ``pad_shape``.
        """
        losses = self.bev.loss(pts_feats[:1], batch_data_samples)
        features = img_feats[0].float()
        with autocast_off(features):  # half a float does not tell pixels apart
            targets = [
                camera_targets(
                    sample.gt_instances_3d.bboxes_3d,
                    sample.gt_instances_3d.labels_3d,
                    torch.as_tensor(sample.metainfo['lidar2img']).to(features),
                    sample.metainfo['pad_shape'][:2],
                    features.shape[-2:],
                    self.camera_num_classes,
                )
                for sample in batch_data_samples
            ]
            return {**losses, **self._camera_losses(features, targets)}

    def predict(
        self,
        pts_feats: Sequence[Tensor],
        img_feats: Sequence[Tensor] | None,
        batch_data_samples: Sequence,
    ) -> list[InstanceData]:
        """Boxes of the BEV map alone: what the LiDAR branch has learned."""
        return self.bev.predict(pts_feats[:1], batch_data_samples)

    def _camera_losses(
        self, features: Tensor, targets: Sequence[CameraTargets]
    ) -> dict[str, Tensor]:
        hidden = self.camera_hidden(features)
        logits = self.camera_cls(hidden).permute(0, 2, 3, 1).flatten(0, 2)
        values = self.camera_reg(hidden).permute(0, 2, 3, 1).flatten(0, 2)
        merged = CameraTargets(*map(torch.cat, zip(*targets, strict=True)))
        labels, log_depth = merged.labels.flatten(), merged.log_depth.flatten()
        shows = (labels < self.camera_num_classes).to(values)
        factor = shows.sum().clamp(min=1)
        sizes = shows[:, None].expand(-1, 3)
        reg = self.camera_loss_reg
        return {
            'camera.loss_cls': self.camera_loss_cls(logits, labels, avg_factor=factor),
            'camera.loss_depth': reg(values[:, 0], log_depth, shows, avg_factor=factor),
            'camera.loss_size': reg(
                values[:, 1:], merged.log_size.flatten(0, 2), sizes, avg_factor=3 * factor
            ),
        }
