"""Weights that know which sensor is spoiled: what a router could reach at best, or at worst."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmdet3d.registry import MODELS
from torch import Tensor

from ...cmt.position_encoding import denormalize_points
from ...ops import NOT_SEEN, QueryWindows
from ...spoiled_parts import SPOILED_REGIONS_KEY, SPOILED_SENSORS_KEY, SPOILED_VIEWS_KEY
from .weight_generator import WeightGenerator


@MODELS.register_module()
class OracleWeightGenerator(WeightGenerator):
    """Full trust in what is healthy where a query looks, full distrust in what is spoiled there.

    No detector has such labels; a study compares a router with it. The samples need the meta keys
    of ``cmt_bias/spoiled_parts.py``: ``spoiled_sensors``, and for failures of a part
    ``spoiled_views`` and ``spoiled_regions``. The cameras are spoiled for a query if one of the
    views that see its reference point is, the LiDAR if the BEV cell of that point has its centre
    in a spoiled region. A label without parts holds for all queries.

    Args:
        pc_range: ``(x_min, y_min, z_min, x_max, y_max, z_max)`` of the BEV map, metres; the head
            fills it in.
        wrong_sign: Distrust healthy sensors and trust spoiled ones instead.
    """

    def __init__(self, pc_range: Sequence[float], wrong_sign: bool = False) -> None:
        super().__init__()
        self.pc_range = tuple(pc_range)
        self.trust = -1.0 if wrong_sign else 1.0

    def forward(
        self,
        query_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        windows: QueryWindows,
        img_metas: Sequence[dict],
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`WeightGenerator.forward`.

        Raises:
            KeyError: If a sample has no label.
        """
        spoiled = []
        for cells, meta in zip(windows.cells, img_metas, strict=True):
            if SPOILED_SENSORS_KEY not in meta:
                raise KeyError(
                    f"OracleWeightGenerator: a sample has no '{SPOILED_SENSORS_KEY}'; put the "
                    'transform LabelSpoiledSensors into the pipeline and the key into the '
                    'meta_keys of its Pack3DDetInputs'
                )
            bev_shape = windows.layout.bev_shape
            first_view = 0 if bev_shape is None else 1
            seen_by = cells[:, first_view:, 0] != NOT_SEEN  # (Q, V)
            lidar = self._lidar_spoiled(meta, cells[:, 0], bev_shape)
            spoiled.append(torch.stack((lidar, self._cameras_spoiled(meta, seen_by))))
        lidar, camera = (self.trust * (1 - 2 * torch.stack(spoiled).float())).unbind(1)
        return lidar, camera

    @staticmethod
    def _cameras_spoiled(meta: Mapping, seen_by: Tensor) -> Tensor:
        """``(Q,)`` bool, of queries that views see as in ``(Q, V)``."""
        spoiled = 'C' in meta[SPOILED_SENSORS_KEY]
        views = meta.get(SPOILED_VIEWS_KEY)
        if not spoiled or views is None or np.all(views):
            return seen_by.new_full(seen_by.shape[:1], spoiled)
        return (seen_by & torch.as_tensor(views, device=seen_by.device)).any(dim=-1)

    def _lidar_spoiled(
        self, meta: Mapping, cells: Tensor, bev_shape: tuple[int, int] | None
    ) -> Tensor:
        """``(Q,)`` bool, of queries with these ``(Q, 2)`` cells ``(row, column)``."""
        spoiled = 'L' in meta[SPOILED_SENSORS_KEY]
        regions = meta.get(SPOILED_REGIONS_KEY)
        if not spoiled or regions is None or bev_shape is None:
            return torch.full(cells.shape[:1], spoiled, device=cells.device)
        share = (cells.float() + 0.5) / cells.new_tensor(bev_shape)
        normalized = torch.stack((share[:, 1], share[:, 0], torch.full_like(share[:, 0], 0.5)), 1)
        points = denormalize_points(normalized, self.pc_range)
        # back into the frame of the regions
        motion = torch.as_tensor(np.linalg.inv(meta.get('lidar_aug_matrix', np.eye(4)))).to(points)
        loaded = (points @ motion[:3, :3].T + motion[:3, 3])[:, :2]
        corners = torch.as_tensor(regions).to(points)  # (R, 4, 2)
        edges = corners.roll(-1, dims=1) - corners
        to_point = loaded[:, None, None] - corners  # (Q, R, 4, 2)
        left = edges[..., 0] * to_point[..., 1] - edges[..., 1] * to_point[..., 0]
        return (left >= 0).all(dim=-1).any(dim=-1)
