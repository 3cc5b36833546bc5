"""A head that teaches both branches of a detector what each of their cells shows.

Shape letters: B batch, V cameras, h x w camera feature cells, N boxes of a sample.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.losses import FocalLoss, L1Loss
from mmdet3d.models.dense_heads import CenterHead
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..cmt.position_encoding import camera_cell_pixels, project_to_cameras
from ..cmt.precision import autocast_off

# Start of the class logits: a probability of a tenth, as in CenterPoint.
PRIOR_LOGIT = -2.19
# Metres: a corner that is nearer to the image plane, or behind it, counts as this far.
NEAREST = 0.5
# Cells within this share of an object's extent on both sides of its centre show it.
CORE = 0.25


@MODELS.register_module()
class DensePretrainingHead(BaseModule):
    """CenterPoint's head on the BEV map, and beside it one on the camera cells.

    In the place of CMT's head, so that the checkpoint's parts have the names they have in CMT.
    Both branches predict from what CMT takes for tokens, a cell by itself: what a cell knows then
    lies in its token. For a camera cell that is the class of the object in it (focal loss), and
    the logs of its depth and size (L1 loss), see :func:`camera_targets`.

    ``camera_channels`` are the camera features', ``kwargs`` the arguments of mmdet3d's
    :class:`CenterHead`, whose shared convolution is CMT's.
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

        They are of the first levels: a BEV map ``(B, in_channels, H, W)``, and camera features
        ``(B * V, C, h, w)``, whose samples have ``lidar2img`` and ``pad_shape``.
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
            labels, log_depth, log_size = (
                torch.cat(of).flatten(0, 2) for of in zip(*targets, strict=True)
            )
            hidden = self.camera_hidden(features)
            logits = self.camera_cls(hidden).permute(0, 2, 3, 1).flatten(0, 2)
            values = self.camera_reg(hidden).permute(0, 2, 3, 1).flatten(0, 2)
            shows = (labels < self.camera_num_classes).to(values)
            count = shows.sum().clamp(min=1)
            sizes, size_weight = values[:, 1:], shows[:, None].expand(-1, 3)
            reg = self.camera_loss_reg
            return {
                **losses,
                'camera.loss_cls': self.camera_loss_cls(logits, labels, avg_factor=count),
                'camera.loss_depth': reg(values[:, 0], log_depth, shows, avg_factor=count),
                'camera.loss_size': reg(sizes, log_size, size_weight, avg_factor=3 * count),
            }

    def predict(
        self,
        pts_feats: Sequence[Tensor],
        img_feats: Sequence[Tensor] | None,
        batch_data_samples: Sequence,
    ) -> list[InstanceData]:
        """Boxes of the BEV map alone: what the LiDAR branch has learned."""
        return self.bev.predict(pts_feats[:1], batch_data_samples)


class CameraTargets(NamedTuple):
    """What the cells of all views of a sample show; logs are of metres, and 0 in background."""

    labels: Tensor  # (V, h, w) int64 class, ``num_classes`` for background
    log_depth: Tensor  # (V, h, w) of the box's centre
    log_size: Tensor  # (V, h, w, 3) of length, width and height


def camera_targets(
    boxes: LiDARInstance3DBoxes,
    labels: Tensor,
    lidar2img: Tensor,
    pad_shape: tuple[int, int],
    feature_shape: Sequence[int],
    num_classes: int,
) -> CameraTargets:
    """Assign objects to the cells in the middle of their images.

    An object whose centre a view sees belongs to the cell that holds it, and to those within half
    of its extent there; where several meet, the nearest is shown.

    Args:
        boxes, labels: N boxes, LiDAR frame, and their classes ``(N,)``.
        lidar2img: ``(V, 4, 4)`` LiDAR frame to pixels of the padded input.
        pad_shape: ``(H, W)`` of the padded input, pixels.
        feature_shape: ``(h, w)`` of the cells.
        num_classes: Label of background.
    """
    center = boxes.gravity_center.to(lidar2img)
    pixels, visible = project_to_cameras(center[None], lidar2img[None], pad_shape)
    center_uv, visible = pixels[0, ..., :2], visible[0]  # (V, N, 2), (V, N)
    depth = F.pad(center, (0, 1), value=1.0) @ lidar2img[:, 2].T  # (N, V)

    corners = F.pad(boxes.corners.to(lidar2img), (0, 1), value=1.0)
    corners = torch.einsum('vij,ncj->vnci', lidar2img, corners)
    corners_uv = corners[..., :2] / corners[..., 2:3].clamp(min=NEAREST)  # (V, N, 8, 2)
    below, above = center_uv - corners_uv.amin(dim=2), corners_uv.amax(dim=2) - center_uv
    half_extent = below.minimum(above).clamp(min=0)  # to the nearer edge of the box's image
    (rows, columns), (height, width) = feature_shape, pad_shape
    half_cell = lidar2img.new_tensor((width / columns, height / rows)) / 2
    reach = (2 * CORE * half_extent).maximum(half_cell)  # the cell of the centre at least
    cells = (
        camera_cell_pixels((rows, columns), pad_shape, lidar2img.device) + half_cell
    )  # (h, w, 2)
    away = (cells - center_uv[:, :, None, None]).abs()  # (V, N, h, w, 2)
    shown = (away <= reach[:, :, None, None]).all(-1) & visible[..., None, None]
    # Background is one more object, behind all others; its depth and size have 0 as their log.
    distance = depth.T[..., None, None].where(shown, torch.inf)
    distance = F.pad(distance, (0, 0, 0, 0, 0, 1), value=torch.finfo(distance.dtype).max)
    nearest = distance.argmin(dim=1)  # (V, h, w)
    labels = F.pad(labels, (0, 1), value=num_classes)
    log_size = F.pad(boxes.dims.to(lidar2img).log(), (0, 0, 0, 1))
    log_depth = F.pad(depth.clamp(min=NEAREST).log(), (0, 0, 0, 1))
    view = torch.arange(len(lidar2img), device=lidar2img.device)[:, None, None]
    return CameraTargets(labels[nearest], log_depth[nearest, view], log_size[nearest])
