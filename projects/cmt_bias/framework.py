"""Whether the detection framework is there: without it, ``ops`` and the maths of ``bias`` are."""

from importlib.util import find_spec
from typing import Any

HAS_MMDET3D = find_spec('mmdet3d') is not None
"""A framework that is there but cannot be imported is an error, not an absence."""


def explain_missing_framework() -> None:
    """Let a config that names the detector say why it is not there."""

    def detector(**_: Any) -> None:
        raise ImportError(
            'cmt_bias: mmdet3d is not installed, so that neither the detector nor anything else '
            'that a config names is registered; only cmt_bias.ops and the maths of cmt_bias.bias '
            'work without it. Install the OpenMMLab stack, see docs/install.md.'
        )

    if find_spec('mmengine') is not None:
        from mmengine.registry import MODELS

        MODELS.register_module(name='CmtDetector', module=detector)
