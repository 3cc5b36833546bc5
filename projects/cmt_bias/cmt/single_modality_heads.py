"""CMT's heads for one sensor alone."""

from typing import Any

from mmdet3d.registry import MODELS

from .head import CmtHead


@MODELS.register_module()
class CmtImageHead(CmtHead):
    """Cameras alone; arguments as for :class:`CmtHead`. It has no ``shared_conv``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shared_conv = None


@MODELS.register_module()
class CmtLidarHead(CmtHead):
    """LiDAR alone; arguments as for :class:`CmtHead`. It has no ``rv_embedding``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rv_embedding = None
