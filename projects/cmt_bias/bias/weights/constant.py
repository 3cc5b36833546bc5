"""The same trust for all queries."""

from collections.abc import Sequence

import torch
from mmdet3d.registry import MODELS
from torch import Tensor

from ...ops import MODALITIES, QueryWindows
from .weight_generator import WeightGenerator


@MODELS.register_module()
class ConstantWeightGenerator(WeightGenerator):
    """The same weights for all queries: the simplest weight generator, without parameters.

    Args:
        lidar_weight: Trust in the LiDAR, in [-1, 1].
        camera_weight: Trust in the cameras, in [-1, 1].

    Raises:
        ValueError: If a weight lies outside [-1, 1].
    """

    def __init__(self, lidar_weight: float = 1.0, camera_weight: float = 1.0) -> None:
        super().__init__()
        self.weights = (lidar_weight, camera_weight)
        for modality, weight in zip(MODALITIES, self.weights, strict=True):
            if not -1 <= weight <= 1:
                raise ValueError(
                    f'weight_generator: {modality}_weight={weight} must lie in [-1, 1]; how '
                    'strong the bias is belongs into attention_bias_config.bias_scale.'
                )

    def forward(
        self,
        query_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        windows: QueryWindows,
        img_metas: Sequence[dict],
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`WeightGenerator.forward`."""
        lidar, camera = (
            query_pos.new_full(query_pos.shape[:2], weight, dtype=torch.float32)
            for weight in self.weights
        )
        return lidar, camera
