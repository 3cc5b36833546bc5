"""Weights that know which sensor is spoiled: what a router could reach at best, or at worst."""

from collections.abc import Sequence

import torch
from mmdet3d.registry import MODELS
from torch import Tensor

from ...failures.sensor_failure import SPOILED_SENSORS_KEY
from ...ops import QueryWindows
from .weight_generator import WeightGenerator


@MODELS.register_module()
class OracleWeightGenerator(WeightGenerator):
    """Full trust in a healthy sensor and full distrust in a spoiled one, by the samples' labels.

    No detector has such labels; a study compares a router with it. The samples need
    ``spoiled_sensors`` in their meta information, letters of 'LC', which the transforms of
    ``cmt_bias.failures`` and :class:`LabelSpoiledSensors` write. It has no
    parameters, and all queries of a sample get the same weights.

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
        windows: QueryWindows,
        img_metas: Sequence[dict],
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`WeightGenerator.forward`.

        Raises:
            KeyError: If a sample has no label.
        """
        spoiled = [self._spoiled_sensors(meta) for meta in img_metas]
        lidar, camera = (
            [-self.trust if sensor in sensors else self.trust for sensors in spoiled]
            for sensor in 'LC'
        )
        weights = torch.tensor((lidar, camera), dtype=torch.float32, device=query_pos.device)
        lidar_weights, camera_weights = weights.unsqueeze(-1).expand(-1, *query_pos.shape[:2])
        return lidar_weights, camera_weights

    @staticmethod
    def _spoiled_sensors(meta: dict) -> str:
        if SPOILED_SENSORS_KEY not in meta:
            raise KeyError(
                f"OracleWeightGenerator: a sample has no '{SPOILED_SENSORS_KEY}'; put the "
                'transform LabelSpoiledSensors into the pipeline and the key into the '
                'meta_keys of its Pack3DDetInputs'
            )
        return meta[SPOILED_SENSORS_KEY]
