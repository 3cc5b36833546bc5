"""What gives each query its trust in the sensors: the base, and the simplest one."""

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

from ...ops import MODALITIES, QueryWindows


class WeightGenerator(BaseModule, metaclass=ABCMeta):
    """Base of the modules that give each query a trust weight for each sensor.

    Derive from it and register the class in ``mmdet3d.registry.MODELS`` to use it as
    ``weight_generator=dict(type=...)`` of an :class:`AttentionBiasCmtHead`, which hands it
    ``embed_dims`` and ``pc_range`` if its constructor has these arguments and the config does not
    set them.
    """

    @abstractmethod
    def forward(
        self,
        query_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        windows: QueryWindows,
        img_metas: Sequence[dict],
    ) -> tuple[Tensor, Tensor]:
        """Weigh the sensors.

        Args:
            query_pos: ``(B, Q, C)`` position encodings of the queries, whose content starts at 0.
            memory: ``(B, K, C)`` tokens of the sensors, LiDAR first.
            memory_pos: ``(B, K, C)`` their position encodings.
            windows: Each query's cell in the BEV map and in every view, and the tokens around it.
            img_metas: Meta information of each of the B samples.

        Returns:
            Trust in the LiDAR and in the cameras, ``(B, Q)`` each, in [-1, 1]: above 0 the tokens
            in the query's windows gain attention, below 0 they lose it.
        """


@MODELS.register_module()
class ConstantWeightGenerator(WeightGenerator):
    """The same weights for all queries, in [-1, 1]; without parameters."""

    def __init__(self, lidar_weight: float = 1.0, camera_weight: float = 1.0) -> None:
        super().__init__()
        self.weights = (lidar_weight, camera_weight)
        for modality, weight in zip(MODALITIES, self.weights, strict=True):
            if not -1 <= weight <= 1:
                raise ValueError(
                    f'weight_generator: {modality}_weight={weight} must lie in [-1, 1]; how '
                    'strong the bias is belongs into attention_bias_config.bias_scale.'
                )

    def forward(self, query_pos: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """See :meth:`WeightGenerator.forward`."""
        of_queries = query_pos.new_ones(query_pos.shape[:2], dtype=torch.float32)
        return of_queries * self.weights[0], of_queries * self.weights[1]
