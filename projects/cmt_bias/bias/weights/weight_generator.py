"""What a module has to do that gives each query its trust in the sensors."""

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor

from ...ops import QueryWindows


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
