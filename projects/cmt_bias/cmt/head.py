"""CMT's head for LiDAR-camera fusion (Yan et al., ICCV 2023).

Shape letters: B batch, V cameras, H x W BEV cells, h x w camera feature cells, K tokens,
Q learned queries, P denoising queries, L decoder layers, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet.models.layers import inverse_sigmoid
from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..ops import TokenLayout, WindowedBias
from .config_keys import refuse_unknown_keys
from .criterion import CmtCriterion, gravity_center_boxes
from .denoising import DenoisingQueries, make_denoising_queries
from .position_encoding import BevEmbedding, CameraGeometry, RayEmbedding, camera_geometry
from .precision import autocast_off
from .task_head import encoded_boxes, predict_task

# One level; None or [None] where the sensor is missing.
Features = Sequence[Tensor | None] | None
# Branches of a task group that a config without common_heads has.
COMMON_HEADS = dict(center=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2))

TaskOutputs = tuple[list[dict], ...]


@dataclass(frozen=True)
class Memory:
    """The tokens that queries attend to: BEV cells, then camera cells, each row-major."""

    tokens: Tensor  # (B, K, C) with K = H * W + V * h * w, less a sensor that is missing
    pos: Tensor  # (B, K, C) position encodings
    layout: TokenLayout


@dataclass(frozen=True)
class DecoderInputs:
    """All that the decoder works on."""

    memory: Memory
    query_pos: Tensor  # (B, P + Q, C) position encodings
    reference_points: Tensor  # (B, P + Q, 3) normalized
    cameras: CameraGeometry | None  # None where the samples have no cameras
    denoising: DenoisingQueries | None  # None outside training
    trust: WindowedBias | None = None  # of CmtHead.trust_of_queries


@MODELS.register_module()
class CmtHead(BaseModule):
    """Object queries attend to BEV and camera tokens; each query becomes a box.

    Either sensor may be missing in a batch (its features are None): the memory then holds the
    other's tokens alone.

    Args:
        in_channels: Channels of the BEV map.
        tasks: Task groups with ``class_names``, in the order of the labels.
        bbox_coder: Its ``pc_range`` is the range of all positions.
        common_heads: For each branch of a task group the number of outputs and of convolutions;
            None for :data:`COMMON_HEADS`.
        separate_head, loss_cls, loss_bbox: None for a ``SeparateTaskHead``, the focal loss, the L1
            loss at a quarter.
        train_cfg: ``grid_size`` (x, y, z in voxels), ``assigner``, ``code_weights``; without it
            there are no losses, and ``grid_size`` is that of ``test_cfg``.
        hidden_dim: Channels C of tokens and queries; the camera features have as many.
        depth_num: Depths at which a camera ray is sampled.
        downsample_scale: Voxels for each BEV cell along an axis.
        scalar, noise_scale, noise_trans, split: Arguments of :func:`make_denoising_queries`, of
            which ``scalar`` is ``max_groups``.
        dn_weight: Factor of the denoising losses.
        loss_heatmap: Accepted for the released configs, where it has no effect either.
        norm_bbox, init_cfg: Must be True and None, as in the released configs.

    Raises:
        TypeError: If there is an unknown key.
        ValueError: If a part is missing, or values of the config contradict one another.
    """

    range_limits: Tensor
    criterion: CmtCriterion | None
    shared_conv: nn.Module | None
    rv_embedding: RayEmbedding | None

    def __init__(
        self,
        *,
        in_channels: int,
        tasks: Sequence[dict] | None = None,
        transformer: dict | None = None,
        bbox_coder: dict | None = None,
        common_heads: dict | None = None,
        separate_head: dict | None = None,
        loss_cls: dict | None = None,
        loss_bbox: dict | None = None,
        loss_heatmap: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        num_query: int = 900,
        hidden_dim: int = 128,
        depth_num: int = 64,
        norm_bbox: bool = True,
        downsample_scale: int = 8,
        scalar: int = 10,
        noise_scale: float = 1.0,
        noise_trans: float = 0.0,
        dn_weight: float = 1.0,
        split: float = 0.75,
        init_cfg: None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown_keys(type(self), 'pts_bbox_head', unknown)
        if not norm_bbox or init_cfg is not None:
            raise ValueError('pts_bbox_head: norm_bbox must be True, init_cfg None; remove them.')
        if tasks is None or transformer is None or bbox_coder is None:
            raise ValueError('pts_bbox_head needs tasks, transformer and bbox_coder; set them.')
        super().__init__()
        self.num_query, self.hidden_dim = num_query, hidden_dim
        self.denoising: dict[str, Any] = dict(
            max_groups=scalar, noise_scale=noise_scale, noise_trans=noise_trans, split=split
        )
        self.classes_of_task = [len(task['class_names']) for task in tasks]
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.pc_range = self.bbox_coder.pc_range
        self.register_buffer('range_limits', torch.tensor(self.pc_range).float(), persistent=False)
        grid_size = (train_cfg or test_cfg or {}).get('grid_size')
        # rows along y, columns along x
        self.bev_shape = grid_size and tuple(n // downsample_scale for n in grid_size[1::-1])
        self.criterion = None
        if train_cfg:
            loss_cls = loss_cls or dict(type='mmdet.FocalLoss', use_sigmoid=True)
            loss_bbox = loss_bbox or dict(type='mmdet.L1Loss', loss_weight=0.25)
            losses = loss_cls, loss_bbox, train_cfg['assigner'], train_cfg['code_weights']
            self.criterion = CmtCriterion(*losses, self.classes_of_task, dn_weight, split)

        norm_cfg = dict(type='BN2d')
        self.shared_conv = ConvModule(in_channels, hidden_dim, 3, padding=1, norm_cfg=norm_cfg)
        self.transformer = MODELS.build(transformer)
        if self.transformer.embed_dims != hidden_dim:
            raise ValueError(
                f'{type(self).__name__}: hidden_dim={hidden_dim} but the attention has embed_dims='
                f'{self.transformer.embed_dims}; make them equal.'
            )
        self.reference_points = nn.Embedding(num_query, 3)
        self.bev_embedding = BevEmbedding(hidden_dim)
        self.rv_embedding = RayEmbedding(hidden_dim, depth_num, self.pc_range)
        layers = self.transformer.decoder.num_layers
        separate_head = separate_head or dict(type='SeparateTaskHead')
        branches = dict(separate_head, in_channels=hidden_dim, groups=layers)
        outputs = common_heads or COMMON_HEADS
        self.task_heads = nn.ModuleList(
            MODELS.build(dict(branches, heads=dict(outputs, cls_logits=(num_classes, 2))))
            for num_classes in self.classes_of_task
        )

    def init_weights(self) -> None:
        """Initialize the parts; reference points are uniform in the range."""
        super().init_weights()
        nn.init.uniform_(self.reference_points.weight, 0, 1)

    def forward(
        self, pts_feats: Features, img_feats: Features, img_metas: Sequence[dict]
    ) -> TaskOutputs:
        """Predict from features of one level.

        Args:
            pts_feats: BEV map ``(B, in_channels, H, W)``.
            img_feats: Camera features ``(B * V, C, h, w)``; further levels are not used.
            img_metas: For each sample ``lidar2img`` ``(V, 4, 4)`` and ``pad_shape`` ``(H, W)`` in
                pixels (without them queries have no camera position), and in training
                ``gt_instances_3d`` with ``bboxes_3d`` and ``labels_3d``.

        Returns:
            For each task group a list with one dict: ``center``, ``height``, ``dim``, ``rot``,
            ``vel``, ``cls_logits``, each ``(L, B, Q, values)``; centre and height in metres in the
            LiDAR frame. In training also their ``dn_`` counterparts ``(L, B, P, values)`` and
            ``denoising``, the :class:`DenoisingQueries`.
        """
        return self.decode(self.encode(pts_feats, img_feats, img_metas))

    def encode(
        self, pts_feats: Features, img_feats: Features, img_metas: Sequence[dict]
    ) -> DecoderInputs:
        """The first half of :meth:`forward`: tokens, queries, their positions."""
        learned = self.reference_points.weight
        with autocast_off(learned):
            points = learned.expand(len(img_metas), -1, -1)
            denoising = self._make_denoising_queries(img_metas) if self.training else None
            if denoising is not None:
                points = torch.cat((denoising.reference_points, points), dim=1)
            cameras = None if self.rv_embedding is None else camera_geometry(img_metas, learned)
            memory = self._make_memory(pts_feats, img_feats, cameras)
            # The round trip only clamps; it is part of the released computation.
            clamped = inverse_sigmoid(points).sigmoid()
            query_pos = self.bev_embedding(clamped)
            if self.rv_embedding is not None and cameras is not None:
                query_pos = query_pos + self.rv_embedding.of_points(clamped, cameras)
        inputs = DecoderInputs(memory, query_pos, points, cameras, denoising)
        return replace(inputs, trust=self.trust_of_queries(inputs, img_metas))

    def decode(self, inputs: DecoderInputs) -> TaskOutputs:
        """The second half of :meth:`forward`; leaves ``inputs`` as they are."""
        denoising = inputs.denoising
        mask = None if denoising is None else denoising.self_attention_mask(self.num_query)
        # (L, B, P + Q, C); attention runs in the precision of the surrounding autocast.
        # NaN becomes 0, as in the released code.
        outputs = torch.nan_to_num(self.decode_queries(inputs, mask))
        points, tasks = inputs.reference_points, []
        with autocast_off(outputs):
            for head in self.task_heads:
                task: dict = predict_task(head, outputs, points, self.range_limits)
                if denoising is not None:
                    count = denoising.num_queries
                    noised = {f'dn_{name}': of[:, :, :count] for name, of in task.items()}
                    learned = {name: of[:, :, count:] for name, of in task.items()}
                    task = dict(learned, **noised, denoising=denoising)
                tasks.append([task])
        return tuple(tasks)

    def trust_of_queries(
        self, inputs: DecoderInputs, img_metas: Sequence[dict]
    ) -> WindowedBias | None:
        """What becomes ``inputs.trust``: a bias on attention at a scale of 1; here none."""
        return None

    def decode_queries(self, inputs: DecoderInputs, self_attn_mask: Tensor | None) -> Tensor:
        """Run the transformer, to ``(L, B, P + Q, C)``: the place to change how queries attend.

        ``self_attn_mask`` ``(P + Q, P + Q)`` is True where a query must not see another.
        """
        memory = inputs.memory
        return self.transformer(memory.tokens, memory.pos, inputs.query_pos, self_attn_mask)

    def _make_memory(
        self, pts_feats: Features, img_feats: Features, cameras: CameraGeometry | None
    ) -> Memory:
        """Tokens of whatever sensors are there, the LiDAR's first."""
        name = type(self).__name__
        bev_features = pts_feats[0] if pts_feats else None
        camera_features = img_feats[0] if img_feats else None
        tokens, positions = [], []
        bev_shape = view_shape = None
        num_views = 0
        if bev_features is not None:
            bev_shape = (bev_features.shape[-2], bev_features.shape[-1])
            if self.shared_conv is None:
                raise ValueError(f'{name} takes no LiDAR features.')
            if self.bev_shape != bev_shape:
                raise ValueError(
                    f'{name}: the BEV map has {bev_shape} (rows, columns), grid_size and '
                    f'downsample_scale of the config give {self.bev_shape}. Make grid_size of '
                    'train_cfg.pts and test_cfg.pts the voxel grid (x, y, z) and '
                    'downsample_scale the stride of the LiDAR backbone.'
                )
            tokens.append(self.shared_conv(bev_features.float()).flatten(2).transpose(1, 2))
            positions.append(self.bev_embedding.of_cells(bev_shape).expand_as(tokens[0]))
        if camera_features is not None:
            if self.rv_embedding is None:
                raise ValueError(f'{name} takes no camera features.')
            if cameras is None:
                raise KeyError(
                    f"{name}: camera features need 'lidar2img' and 'pad_shape' in every img_meta; "
                    "add 'lidar2img' to the meta_keys of Pack3DDetInputs."
                )
            if camera_features.shape[1] != self.hidden_dim:
                raise ValueError(
                    f'{name}: camera features have {camera_features.shape[1]} channels, hidden_dim'
                    f' is {self.hidden_dim}; set img_neck.out_channels to hidden_dim.'
                )
            view_shape = (camera_features.shape[-2], camera_features.shape[-1])
            batch_size, num_views = cameras.lidar2img.shape[:2]
            # (B * V, C, h, w) -> (B, V * h * w, C)
            of_views = camera_features.float().unflatten(0, (batch_size, num_views))
            tokens.append(of_views.permute(0, 1, 3, 4, 2).flatten(1, 3))
            positions.append(self.rv_embedding.of_cells(view_shape, cameras))
        if not tokens:
            raise ValueError(f'{name}: neither LiDAR nor camera features were given.')
        layout = TokenLayout(bev_shape, num_views, view_shape)
        return Memory(torch.cat(tokens, 1), torch.cat(positions, 1), layout)

    def _make_denoising_queries(self, img_metas: Sequence[dict]) -> DenoisingQueries:
        if any('gt_instances_3d' not in meta for meta in img_metas):
            raise KeyError(
                f"{type(self).__name__}: in training every img_meta needs 'gt_instances_3d', an "
                'InstanceData with bboxes_3d and labels_3d; call head.eval() to predict.'
            )
        device = self.reference_points.weight.device
        instances = [meta['gt_instances_3d'] for meta in img_metas]
        return make_denoising_queries(
            [gravity_center_boxes(gt).to(device) for gt in instances],
            [gt.labels_3d.to(device) for gt in instances],
            num_learned=self.num_query,
            pc_range=self.range_limits,
            background_label=sum(self.classes_of_task),
            **self.denoising,
        )

    def loss(
        self, pts_feats: Features, img_feats: Features, batch_data_samples: Sequence
    ) -> dict[str, Tensor]:
        """Losses of a batch of ``Det3DDataSample`` with ``gt_instances_3d``."""
        instances = [sample.gt_instances_3d for sample in batch_data_samples]
        img_metas = [
            dict(s.metainfo, gt_instances_3d=s.gt_instances_3d) for s in batch_data_samples
        ]
        return self.loss_by_feat(self(pts_feats, img_feats, img_metas), instances)

    def loss_by_feat(
        self, task_outputs: TaskOutputs, batch_gt_instances_3d: Sequence[InstanceData]
    ) -> dict[str, Tensor]:
        """What :meth:`CmtCriterion.forward` makes of the result of :meth:`forward`.

        Raises:
            FloatingPointError: If a prediction is not finite.
        """
        if self.criterion is None:
            raise ValueError(f'{type(self).__name__}: the losses need train_cfg.pts.')
        return self.criterion([levels[0] for levels in task_outputs], batch_gt_instances_3d)

    def predict(
        self, pts_feats: Features, img_feats: Features, batch_data_samples: Sequence
    ) -> list[InstanceData]:
        """Boxes of a batch of ``Det3DDataSample``; see :meth:`predict_by_feat`."""
        img_metas = [sample.metainfo for sample in batch_data_samples]
        return self.predict_by_feat(self(pts_feats, img_feats, img_metas), img_metas)

    def predict_by_feat(
        self, task_outputs: TaskOutputs, img_metas: Sequence[dict]
    ) -> list[InstanceData]:
        """Boxes of the last layer, out of the result of :meth:`forward`.

        For each sample ``bboxes_3d`` of its ``box_type_3d`` (LiDAR frame, metres, z at the
        bottom), ``scores_3d`` and ``labels_3d``.
        """
        results = []
        for sample, meta in zip(self.decode_boxes(task_outputs), img_metas, strict=True):
            boxes = sample['bboxes'].clone()
            boxes[:, 2] -= boxes[:, 5] * 0.5  # from the middle to the bottom of the box
            boxes = meta['box_type_3d'](boxes, boxes.shape[-1])
            scores, labels = sample['scores'], sample['labels']
            results.append(InstanceData(bboxes_3d=boxes, scores_3d=scores, labels_3d=labels))
        return results

    def decode_boxes(self, task_outputs: TaskOutputs) -> list[dict[str, Tensor]]:
        """What :meth:`MultiTaskBBoxCoder.decode` makes of the last layer's predictions."""
        logits = [task['cls_logits'][-1] for (task,) in task_outputs]
        return self.bbox_coder.decode(logits, [encoded_boxes(t)[-1] for (t,) in task_outputs])


@MODELS.register_module()
class CmtImageHead(CmtHead):
    """Cameras alone; arguments as for :class:`CmtHead`. It has no ``shared_conv``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shared_conv = None


@MODELS.register_module()
class CmtLidarHead(CmtHead):
    """LiDAR alone; arguments as for :class:`CmtHead`. It has no ``rv_embedding``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rv_embedding = None
