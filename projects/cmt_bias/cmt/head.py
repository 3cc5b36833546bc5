"""CMT's head for LiDAR-camera fusion (Yan et al., ICCV 2023).

Shape letters: B batch, V cameras, H x W BEV cells, h x w camera feature cells, Q learned queries,
P denoising queries, L decoder layers, C channels, D depths of a ray.
"""

import difflib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmcv.cnn import ConvModule
from mmdet.models.layers import inverse_sigmoid
from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..ops import TokenLayout
from .criterion import CmtCriterion, TaskPrediction, gravity_center_boxes
from .denoising import DenoisingConfig, DenoisingQueries, make_denoising_queries
from .position_encoding import (
    CameraGeometry,
    bev_grid_hidden,
    camera_cell_pixels,
    camera_ray_hidden,
    common_image_shape,
    denormalize_points,
    pos2embed,
    project_to_cameras,
    range_limits,
    ray_depths,
)
from .precision import float32_island

# The branches whose outputs, in this order, are the ten values of an encoded box.
BOX_BRANCHES = dict(center=2, height=1, dim=3, rot=2, vel=2)

TaskOutputs = tuple[list[dict], ...]


@dataclass(frozen=True)
class Memory:
    """The tokens that queries attend to: BEV cells, then camera cells, each row-major.

    Attributes:
        tokens: ``(B, K, C)`` with ``K = H * W + V * h * w``, less a sensor that is missing.
        pos: ``(B, K, C)`` position encodings.
        layout: Which token is which.
    """

    tokens: Tensor
    pos: Tensor
    layout: TokenLayout


@dataclass(frozen=True)
class DecoderInputs:
    """All that the decoder works on, before its first layer.

    Attributes:
        memory: Tokens of all sensors.
        query_pos: ``(B, P + Q, C)`` position encodings.
        reference_points: ``(B, P + Q, 3)`` normalized.
        denoising: The denoising queries; None outside training.
        attention_inputs: Result of :meth:`CmtHead.attention_inputs`.
    """

    memory: Memory
    query_pos: Tensor
    reference_points: Tensor
    denoising: DenoisingQueries | None
    attention_inputs: Any


@MODELS.register_module()
class CmtHead(BaseModule):
    """Object queries attend to BEV and camera tokens; each query becomes a box.

    Either sensor may be missing in a batch (its features are None): the memory then holds the
    other's tokens alone.

    Args:
        in_channels: Channels of the BEV map.
        num_query: Number of learned queries Q.
        hidden_dim: Channels C of tokens and queries; the camera features have as many.
        depth_num: Depths D at which a camera ray is sampled.
        norm_bbox: Must be true: boxes are regressed as the log of their sizes.
        downsample_scale: Voxels for each BEV cell along an axis.
        scalar: Most groups of denoising queries.
        noise_scale: Noise of the denoising centres, 1 moves them within the box.
        noise_trans: Added to the half sizes, in metres, for that noise.
        dn_weight: Factor of the denoising losses.
        split: Denoising queries with a larger noise draw become background.
        train_cfg: ``grid_size`` (x, y, z in voxels), ``assigner``, ``code_weights``.
        test_cfg: ``grid_size``; read where there is no ``train_cfg``.
        common_heads: For each branch of a task group the number of outputs and of convolutions.
        tasks: Task groups with ``class_names`` (and ``num_class``), in the order of the labels.
        transformer: Config of the transformer.
        bbox_coder: Config of the box coder; its ``pc_range`` is the range of all positions.
        loss_cls: Config of the class loss.
        loss_bbox: Config of the box loss.
        loss_heatmap: Accepted for the released configs, where it has no effect either.
        separate_head: Config of the prediction branches.
        init_cfg: Must be None.
        unknown_keys: Any other key is an error.

    Raises:
        TypeError: If the config has an unknown key.
        ValueError: If values of the config contradict one another.
    """

    range_limits: Tensor

    def __init__(
        self,
        in_channels: int,
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
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        common_heads: dict | None = None,
        tasks: Sequence[dict] | None = None,
        transformer: dict | None = None,
        bbox_coder: dict | None = None,
        loss_cls: dict | None = None,
        loss_bbox: dict | None = None,
        loss_heatmap: dict | None = None,
        separate_head: dict | None = None,
        init_cfg: dict | None = None,
        **unknown_keys: Any,
    ) -> None:
        self._reject_unknown_keys(unknown_keys)
        if not norm_bbox or init_cfg is not None:
            raise ValueError(
                f'{type(self).__name__}: norm_bbox must be True and init_cfg None, got '
                f'norm_bbox={norm_bbox}, init_cfg={init_cfg}; remove both from the config.'
            )
        if tasks is None or transformer is None or bbox_coder is None:
            raise ValueError(
                f'{type(self).__name__}: pts_bbox_head needs tasks, transformer and bbox_coder.'
            )
        super().__init__()
        self.num_query = num_query
        self.hidden_dim = hidden_dim
        self.depth_num = depth_num
        self.denoising = DenoisingConfig(scalar, noise_scale, noise_trans, split)
        self.class_names = [list(task['class_names']) for task in tasks]
        self.classes_of_task = [len(names) for names in self.class_names]
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.pc_range = self.bbox_coder.pc_range
        self.register_buffer(
            'range_limits', torch.tensor(self.pc_range, dtype=torch.float32), persistent=False
        )
        self.bev_shape = self._configured_bev_shape(train_cfg or test_cfg, downsample_scale)
        self.criterion = (
            CmtCriterion(
                loss_cls=loss_cls or dict(type='mmdet.FocalLoss', use_sigmoid=True),
                loss_bbox=loss_bbox or dict(type='mmdet.L1Loss', loss_weight=0.25),
                assigner=train_cfg['assigner'],
                code_weights=train_cfg['code_weights'],
                classes_of_task=self.classes_of_task,
                dn_weight=dn_weight,
                dn_split=split,
            )
            if train_cfg
            else None
        )
        self._init_layers(in_channels, transformer, common_heads, separate_head)

    def _reject_unknown_keys(self, unknown_keys: dict) -> None:
        if not unknown_keys:
            return
        known = {
            name
            for cls in type(self).__mro__
            if '__init__' in vars(cls) and issubclass(cls, CmtHead)
            for name in inspect.signature(vars(cls)['__init__']).parameters
        } - {'self', 'args', 'kwargs', 'unknown_keys'}
        hints = []
        for key in unknown_keys:
            close = difflib.get_close_matches(key, known, n=1)
            hints.append(f"'{key}'" + (f" (did you mean '{close[0]}'?)" if close else ''))
        raise TypeError(
            f'{type(self).__name__}: unknown key in pts_bbox_head: {", ".join(hints)}. '
            f'Known keys: {", ".join(sorted(known))}.'
        )

    def _configured_bev_shape(
        self, cfg: dict | None, downsample_scale: int
    ) -> tuple[int, int] | None:
        """``(H, W)`` of the BEV map; None where no ``grid_size`` is configured."""
        if not cfg or 'grid_size' not in cfg:
            return None
        x_size, y_size = cfg['grid_size'][:2]
        return y_size // downsample_scale, x_size // downsample_scale

    def _init_layers(
        self,
        in_channels: int,
        transformer: dict,
        common_heads: dict | None,
        separate_head: dict | None,
    ) -> None:
        channels = self.hidden_dim
        self.shared_conv: nn.Module | None = ConvModule(
            in_channels, channels, kernel_size=3, padding=1, norm_cfg=dict(type='BN2d')
        )
        self.transformer = MODELS.build(transformer)
        if self.transformer.embed_dims != channels:
            raise ValueError(
                f'{type(self).__name__}: hidden_dim={channels} but the attention has embed_dims='
                f'{self.transformer.embed_dims}; make them equal.'
            )
        self.reference_points = nn.Embedding(self.num_query, 3)
        self.bev_embedding = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)
        )
        self.rv_embedding: nn.Sequential | None = nn.Sequential(
            nn.Linear(3 * self.depth_num, 4 * channels),
            nn.ReLU(inplace=True),
            nn.Linear(4 * channels, channels),
        )
        branches = common_heads or {name: (size, 2) for name, size in BOX_BRANCHES.items()}
        self.task_heads = nn.ModuleList(
            MODELS.build(
                dict(
                    separate_head or dict(type='SeparateTaskHead'),
                    in_channels=channels,
                    heads=dict(branches, cls_logits=(num_classes, 2)),
                    groups=self.transformer.decoder.num_layers,
                )
            )
            for num_classes in self.classes_of_task
        )

    def init_weights(self) -> None:
        """Initialize the parts; reference points are uniform in the range."""
        super().init_weights()
        nn.init.uniform_(self.reference_points.weight, 0, 1)

    def forward(
        self,
        pts_feats: Sequence[Tensor | None] | None,
        img_feats: Sequence[Tensor | None] | None,
        img_metas: Sequence[dict],
    ) -> TaskOutputs:
        """Predict from features of one level.

        Args:
            pts_feats: One BEV map ``(B, in_channels, H, W)``; None or [None] without LiDAR.
            img_feats: Camera features ``(B * V, C, h, w)``, of which the first level is used; None
                or [None] without cameras.
            img_metas: For each sample ``lidar2img`` ``(V, 4, 4)`` and ``pad_shape`` ``(H, W)`` in
                pixels (without them, as in a batch without images, queries have no camera
                position), and in training ``gt_instances_3d``, an ``InstanceData`` with
                ``bboxes_3d`` and ``labels_3d``.

        Returns:
            For each task group a list with one dict: ``center``, ``height``, ``dim``, ``rot``,
            ``vel``, ``cls_logits``, each ``(L, B, Q, values)``; centre and height in metres in the
            LiDAR frame. In training also their ``dn_`` counterparts ``(L, B, P, values)`` and
            ``denoising``, the :class:`DenoisingQueries`.
        """
        return self.decode(self.encode(pts_feats, img_feats, img_metas))

    def encode(
        self,
        pts_feats: Sequence[Tensor | None] | None,
        img_feats: Sequence[Tensor | None] | None,
        img_metas: Sequence[dict],
    ) -> DecoderInputs:
        """The first half of :meth:`forward`, with its arguments: tokens, queries, positions."""
        bev_features = pts_feats[0] if pts_feats else None
        camera_features = img_feats[0] if img_feats else None
        self._check_features(bev_features, camera_features)
        with float32_island(self.reference_points.weight):
            denoising = self._make_denoising_queries(img_metas) if self.training else None
            reference_points = self._reference_points(len(img_metas), denoising)
            cameras = self._camera_geometry(img_metas)
            memory = self._memory(bev_features, camera_features, cameras)
            query_pos = self._query_position(reference_points, cameras)
        attention_inputs = self.attention_inputs(
            memory, query_pos, reference_points, cameras, img_metas
        )
        return DecoderInputs(memory, query_pos, reference_points, denoising, attention_inputs)

    def decode(self, inputs: DecoderInputs) -> TaskOutputs:
        """The second half of :meth:`forward`, with its result; leaves ``inputs`` as they are."""
        denoising = inputs.denoising
        mask = None if denoising is None else denoising.self_attention_mask(self.num_query)
        # (L, B, P + Q, C); attention runs in the precision of the surrounding autocast
        outputs = self._without_nan(self.decode_queries(inputs, mask))
        with float32_island(outputs):
            tasks = [
                self._predict_task(head, outputs, inputs.reference_points)
                for head in self.task_heads
            ]
        if denoising is not None:
            tasks = [self._split_denoising(task, denoising) for task in tasks]
        return tuple([task] for task in tasks)

    def attention_inputs(
        self,
        memory: Memory,
        query_pos: Tensor,
        reference_points: Tensor,
        cameras: CameraGeometry | None,
        img_metas: Sequence[dict],
    ) -> Any:
        """What :meth:`decode_queries` needs besides tokens and queries; here nothing.

        Args:
            memory: Tokens of all sensors.
            query_pos: ``(B, P + Q, C)`` position encodings.
            reference_points: ``(B, P + Q, 3)`` normalized.
            cameras: Calibration; None where the samples have no cameras.
            img_metas: Meta information of each sample.
        """
        return None

    def decode_queries(self, inputs: DecoderInputs, self_attn_mask: Tensor | None) -> Tensor:
        """Run the transformer: the place to change how queries attend.

        Args:
            inputs: Tokens, queries, and the result of :meth:`attention_inputs`.
            self_attn_mask: ``(P + Q, P + Q)`` bool, True where a query must not see another.

        Returns:
            ``(L, B, P + Q, C)``.
        """
        memory = inputs.memory
        return self.transformer(memory.tokens, memory.pos, inputs.query_pos, self_attn_mask)

    def _check_features(self, bev_features: Tensor | None, camera_features: Tensor | None) -> None:
        name = type(self).__name__
        if bev_features is not None and self.bev_shape != tuple(bev_features.shape[-2:]):
            raise ValueError(
                f'{name}: the BEV map has {tuple(bev_features.shape[-2:])} (rows, columns) but '
                f'grid_size and downsample_scale of the config give {self.bev_shape}. Make '
                'train_cfg.pts.grid_size / test_cfg.pts.grid_size the voxel grid (x, y, z) and '
                'downsample_scale the stride of the LiDAR backbone.'
            )
        if camera_features is not None and camera_features.shape[1] != self.hidden_dim:
            raise ValueError(
                f'{name}: camera features have {camera_features.shape[1]} channels, hidden_dim is '
                f'{self.hidden_dim}; set img_neck.out_channels to hidden_dim.'
            )

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
            config=self.denoising,
        )

    def _reference_points(self, batch_size: int, denoising: DenoisingQueries | None) -> Tensor:
        """``(B, P + Q, 3)`` normalized, denoising queries first."""
        learned = self.reference_points.weight.expand(batch_size, -1, -1)
        if denoising is None:
            return learned
        return torch.cat((denoising.reference_points, learned), dim=1)

    def _camera_geometry(self, img_metas: Sequence[dict]) -> CameraGeometry | None:
        """Stack the calibration; None where the samples have no cameras or no images."""
        if self.rv_embedding is None or any(
            key not in meta for meta in img_metas for key in ('lidar2img', 'pad_shape')
        ):
            return None
        # float64: the inverse of a projection loses three digits
        lidar2img = torch.as_tensor(
            np.stack([np.asarray(meta['lidar2img'], dtype=np.float64) for meta in img_metas])
        )
        weight = self.reference_points.weight
        both = torch.stack((lidar2img, torch.linalg.inv(lidar2img)))
        lidar2img, img2lidar = both.to(weight, non_blocking=True)
        return CameraGeometry(
            lidar2img=lidar2img,
            img2lidar=img2lidar,
            pad_shape=common_image_shape(img_metas[0]['pad_shape']),
        )

    def _memory(
        self,
        bev_features: Tensor | None,
        camera_features: Tensor | None,
        cameras: CameraGeometry | None,
    ) -> Memory:
        """Tokens of whatever sensors are there, the LiDAR's first.

        Raises:
            ValueError: If there are none.
        """
        parts = []
        bev_shape = view_shape = None
        num_views = 0
        if bev_features is not None:
            bev_shape = (bev_features.shape[-2], bev_features.shape[-1])
            parts.append(self._bev_tokens(bev_features))
        if camera_features is not None:
            parts.append(self._camera_tokens(camera_features, cameras))
            assert cameras is not None  # _camera_tokens has checked it
            view_shape = (camera_features.shape[-2], camera_features.shape[-1])
            num_views = cameras.lidar2img.shape[1]
        if not parts:
            raise ValueError(
                f'{type(self).__name__}: neither LiDAR nor camera features were given.'
            )
        tokens, positions = zip(*parts, strict=True)
        layout = TokenLayout(bev_shape, num_views, view_shape)
        return Memory(torch.cat(tokens, 1), torch.cat(positions, 1), layout)

    def _bev_tokens(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and positions of the BEV map, ``(B, H * W, C)`` each."""
        if self.shared_conv is None:
            raise ValueError(f'{type(self).__name__} takes no LiDAR features.')
        tokens = self.shared_conv(features.float()).flatten(2).transpose(1, 2)
        bev_shape = (features.shape[-2], features.shape[-1])
        first = self.bev_embedding[0]
        assert isinstance(first, nn.Linear)
        position = self.bev_embedding[1:](bev_grid_hidden(bev_shape, first))
        return tokens, position.expand(len(tokens), -1, -1)

    def _camera_tokens(
        self, features: Tensor, cameras: CameraGeometry | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens and positions of all views, ``(B, V * h * w, C)`` each."""
        if self.rv_embedding is None:
            raise ValueError(f'{type(self).__name__} takes no camera features.')
        if cameras is None:
            raise KeyError(
                f"{type(self).__name__}: camera features need 'lidar2img' and 'pad_shape' in "
                "every img_meta; add 'lidar2img' to the meta_keys of Pack3DDetInputs."
            )
        batch_size, num_cameras = cameras.lidar2img.shape[:2]
        # (B * V, C, h, w) -> (B, V * h * w, C)
        tokens = features.float().unflatten(0, (batch_size, num_cameras))
        tokens = tokens.permute(0, 1, 3, 4, 2).flatten(1, 3)

        feature_shape = (features.shape[-2], features.shape[-1])
        pixels = camera_cell_pixels(feature_shape, cameras.pad_shape, tokens.device)
        pixels = torch.cat((pixels, torch.ones_like(pixels[..., :1])), dim=-1)  # (h, w, 3)
        pixels = pixels.expand(batch_size, num_cameras, -1, -1, -1)
        return tokens, self._embed_rays(pixels, cameras).flatten(1, 3)

    def _embed_rays(self, pixels: Tensor, cameras: CameraGeometry) -> Tensor:
        """Embed the rays through ``(B, V, ..., 3)`` pixels as ``(B, V, ..., C)``."""
        assert self.rv_embedding is not None  # without it there is no camera geometry
        depths = ray_depths(self.depth_num, self.pc_range[3], pixels.device)
        first = self.rv_embedding[0]
        assert isinstance(first, nn.Linear)
        hidden = camera_ray_hidden(pixels, cameras.img2lidar, depths, self.range_limits, first)
        return self.rv_embedding[1:](hidden)

    def _query_position(self, reference_points: Tensor, cameras: CameraGeometry | None) -> Tensor:
        """Embed ``(B, P + Q, 3)`` reference points as ``(B, P + Q, C)``."""
        # The round trip only clamps; it is part of the released computation.
        points = inverse_sigmoid(reference_points).sigmoid()
        position = self.bev_embedding(pos2embed(points, self.hidden_dim))
        if cameras is None:
            return position
        pixels, visible = project_to_cameras(
            denormalize_points(points, self.range_limits), cameras.lidar2img, cameras.pad_shape
        )
        rays = self._embed_rays(pixels, cameras) * visible.unsqueeze(-1)  # (B, V, P + Q, C)
        return position + rays.sum(dim=1)

    def _without_nan(self, outputs: Tensor) -> Tensor:
        """Replace NaN by zero, as the released code does; in training stop if weights are NaN."""
        if self.training and not torch.isfinite(outputs).all():
            self._raise_for_nonfinite_parameters('the decoder output')
            MMLogger.get_current_instance().warning(
                '%s: NaN or infinite values in the decoder output of finite weights were set to '
                'zero (half-precision overflow?).',
                type(self).__name__,
            )
        return torch.nan_to_num(outputs)

    def _raise_for_nonfinite_parameters(self, where: str) -> None:
        for name, parameter in self.named_parameters():
            if not torch.isfinite(parameter).all():
                raise FloatingPointError(
                    f"{type(self).__name__}: {where} is not finite because the parameter '{name}' "
                    'is not. Resume from an earlier checkpoint with a lower learning rate or '
                    'without AMP.'
                )

    def _predict_task(
        self, task_head: nn.Module, outputs: Tensor, reference_points: Tensor
    ) -> dict[str, Tensor]:
        """Branches of one task group; centre and height in metres."""
        branches = task_head(outputs)
        reference = inverse_sigmoid(reference_points)
        low, high = range_limits(self.range_limits, outputs)
        center = (branches['center'] + reference[..., :2]).sigmoid()
        height = (branches['height'] + reference[..., 2:]).sigmoid()
        branches['center'] = center * (high - low)[:2] + low[:2]
        branches['height'] = height * (high - low)[2:] + low[2:]
        return branches

    @staticmethod
    def _split_denoising(task: dict[str, Tensor], denoising: DenoisingQueries) -> dict:
        num_denoising = denoising.num_queries
        learned = {name: values[:, :, num_denoising:] for name, values in task.items()}
        noised = {f'dn_{name}': values[:, :, :num_denoising] for name, values in task.items()}
        return dict(learned, **noised, denoising=denoising)

    @staticmethod
    def _encoded_boxes(task: dict, prefix: str = '') -> Tensor:
        """``(L, B, Q, 10)``."""
        return torch.cat([task[prefix + name] for name in BOX_BRANCHES], dim=-1)

    def loss(
        self,
        pts_feats: Sequence[Tensor | None] | None,
        img_feats: Sequence[Tensor | None] | None,
        batch_data_samples: Sequence,
    ) -> dict[str, Tensor]:
        """Losses of a batch of ``Det3DDataSample`` with ``gt_instances_3d``."""
        instances = [sample.gt_instances_3d for sample in batch_data_samples]
        img_metas = [
            dict(sample.metainfo, gt_instances_3d=gt)
            for sample, gt in zip(batch_data_samples, instances, strict=True)
        ]
        return self.loss_by_feat(self(pts_feats, img_feats, img_metas), instances)

    def loss_by_feat(
        self, task_outputs: TaskOutputs, batch_gt_instances_3d: Sequence[InstanceData]
    ) -> dict[str, Tensor]:
        """Losses of predictions.

        Args:
            task_outputs: Result of :meth:`forward`.
            batch_gt_instances_3d: For each sample ``bboxes_3d`` and ``labels_3d``.

        Returns:
            Named losses, see :meth:`CmtCriterion.forward`.

        Raises:
            ValueError: If the head was built without ``train_cfg``.
            FloatingPointError: If a prediction is not finite; names the layer and branch.
        """
        if self.criterion is None:
            raise ValueError(
                f'{type(self).__name__}: the losses need train_cfg.pts in the config.'
            )
        tasks = [levels[0] for levels in task_outputs]
        self._check_finite(tasks)
        predictions = [
            TaskPrediction(task['cls_logits'], self._encoded_boxes(task)) for task in tasks
        ]
        if 'denoising' not in tasks[0]:
            return self.criterion(predictions, batch_gt_instances_3d)
        dn_predictions = [
            TaskPrediction(task['dn_cls_logits'], self._encoded_boxes(task, 'dn_'))
            for task in tasks
        ]
        return self.criterion(
            predictions, batch_gt_instances_3d, dn_predictions, tasks[0]['denoising']
        )

    def _check_finite(self, tasks: Sequence[dict]) -> None:
        names = (*BOX_BRANCHES, 'cls_logits')
        # one question to the device; only what is not finite is looked for
        flags = [torch.isfinite(task[name]).all() for task in tasks for name in names]
        if torch.stack(flags).all():
            return
        for index, task in enumerate(tasks):
            for name in names:
                finite = torch.isfinite(task[name]).flatten(1).all(dim=1)  # (L,)
                if not finite.all():
                    layer = int((~finite).nonzero()[0])
                    where = f"'{name}' of task group {index}, decoder layer {layer},"
                    self._raise_for_nonfinite_parameters(where)
                    raise FloatingPointError(
                        f'{type(self).__name__}: {where} is not finite though all parameters are.'
                        ' Look at the inputs of this batch, or train without AMP.'
                    )

    def predict(
        self,
        pts_feats: Sequence[Tensor | None] | None,
        img_feats: Sequence[Tensor | None] | None,
        batch_data_samples: Sequence,
    ) -> list[InstanceData]:
        """Boxes of a batch of ``Det3DDataSample``; see :meth:`predict_by_feat`."""
        img_metas = [sample.metainfo for sample in batch_data_samples]
        return self.predict_by_feat(self(pts_feats, img_feats, img_metas), img_metas)

    def predict_by_feat(
        self, task_outputs: TaskOutputs, img_metas: Sequence[dict]
    ) -> list[InstanceData]:
        """Decode the last layer's predictions.

        Args:
            task_outputs: Result of :meth:`forward`.
            img_metas: For each sample ``box_type_3d``, the class of its boxes.

        Returns:
            For each sample ``bboxes_3d`` (LiDAR frame, metres, z at the bottom), ``scores_3d`` and
            ``labels_3d``.
        """
        results = []
        for sample, meta in zip(self.decode_boxes(task_outputs), img_metas, strict=True):
            boxes = sample['bboxes'].clone()
            boxes[:, 2] -= boxes[:, 5] * 0.5  # from the middle to the bottom of the box
            box_type = meta['box_type_3d']
            results.append(
                InstanceData(
                    bboxes_3d=box_type(boxes, boxes.shape[-1]),
                    scores_3d=sample['scores'],
                    labels_3d=sample['labels'],
                )
            )
        return results

    def decode_boxes(self, task_outputs: TaskOutputs) -> list[dict[str, Tensor]]:
        """What the box coder makes of the last layer's predictions.

        Args:
            task_outputs: Result of :meth:`forward`.

        Returns:
            For each sample the result of :meth:`MultiTaskBBoxCoder.decode`, in the order of the
            boxes of :meth:`predict_by_feat`.
        """
        tasks = [levels[0] for levels in task_outputs]
        return self.bbox_coder.decode(
            [task['cls_logits'][-1] for task in tasks],
            [self._encoded_boxes(task)[-1] for task in tasks],
        )
