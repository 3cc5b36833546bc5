"""Weights that know which sensor is spoiled: what a router could reach at best, or at worst."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmdet3d.registry import MODELS
from torch import Tensor

from ...failures.spoiled_parts import (
    SPOILED_REGIONS_KEY,
    SPOILED_SENSORS_KEY,
    SPOILED_VIEWS_KEY,
)
from ..windows import Windows
from .router import WeightGenerator


@MODELS.register_module()
class OracleWeightGenerator(WeightGenerator):
    """Full trust in what is healthy where a query looks, full distrust in what is spoiled there.

    No detector has such labels; a study compares a router with it. The samples need
    ``spoiled_sensors`` in their meta information, which the transforms of
    ``cmt_bias.failures`` and :class:`LabelSpoiledSensors` write, and for failures of a part
    ``spoiled_views`` and ``spoiled_regions`` (see ``cmt_bias/failures/spoiled_parts.py``): the
    cameras are spoiled for a query if one of the views that see its reference point is, the LiDAR
    if the point lies in a spoiled region. A label without parts holds for all queries. There are
    no parameters.

    Args:
        wrong_sign: Distrust healthy sensors and trust spoiled ones instead.
    """

    def __init__(self, wrong_sign: bool = False) -> None:
        super().__init__()
        self.trust = -1.0 if wrong_sign else 1.0

    def forward(
        self,
        query_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        windows: Windows,
        img_metas: Sequence[dict],
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`WeightGenerator.forward`.

        Raises:
            KeyError: If a sample has no label.
        """
        lidar, cameras = [], []
        num_queries = query_pos.shape[1]
        for sample, meta in enumerate(img_metas):
            if SPOILED_SENSORS_KEY not in meta:
                raise KeyError(
                    f"OracleWeightGenerator: a sample has no '{SPOILED_SENSORS_KEY}'; put the "
                    'transform LabelSpoiledSensors into the pipeline and the key into the '
                    'meta_keys of its Pack3DDetInputs'
                )
            points = None if windows.points is None else windows.points[sample]
            seen_by = None if windows.seen_by is None else windows.seen_by[sample]
            lidar.append(_lidar_spoiled(meta, points, num_queries))
            cameras.append(_cameras_spoiled(meta, seen_by, num_queries))
        lidar_weights, camera_weights = (
            self.trust - 2 * self.trust * torch.stack(spoiled).to(query_pos.device).float()
            for spoiled in (lidar, cameras)
        )
        return lidar_weights, camera_weights


def _cameras_spoiled(meta: Mapping, seen_by: Tensor | None, num_queries: int) -> Tensor:
    """``(Q,)`` bool; ``seen_by`` is ``(Q, V)``."""
    spoiled = 'C' in meta[SPOILED_SENSORS_KEY]
    views = meta.get(SPOILED_VIEWS_KEY)
    if not spoiled or views is None or seen_by is None or np.all(views):
        return torch.full((num_queries,), spoiled)
    return (seen_by & torch.as_tensor(views, device=seen_by.device)).any(dim=-1)


def _lidar_spoiled(meta: Mapping, points: Tensor | None, num_queries: int) -> Tensor:
    """``(Q,)`` bool; ``points`` are ``(Q, 3)`` metres in the augmented LiDAR frame."""
    spoiled = 'L' in meta[SPOILED_SENSORS_KEY]
    regions = meta.get(SPOILED_REGIONS_KEY)
    if not spoiled or regions is None or points is None:
        return torch.full((num_queries,), spoiled)
    # back into the frame of the regions
    motion = torch.as_tensor(np.linalg.inv(meta.get('lidar_aug_matrix', np.eye(4)))).to(points)
    loaded = (points @ motion[:3, :3].T + motion[:3, 3])[:, :2]
    corners = torch.as_tensor(regions).to(points)  # (R, 4, 2)
    edges = corners.roll(-1, dims=1) - corners
    to_point = loaded[:, None, None] - corners  # (Q, R, 4, 2)
    left = edges[..., 0] * to_point[..., 1] - edges[..., 1] * to_point[..., 0]
    return (left >= 0).all(dim=-1).any(dim=-1)
