"""The package where mmdet3d is not installed."""

import subprocess
import sys

WITHOUT_MMDET3D = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name == 'mmdet3d' else find(name, *args)
import sys
import cmt_bias, cmt_bias.ops, cmt_bias.bias
assert 'mmdet3d' not in sys.modules and 'mmcv' not in sys.modules
from mmengine.registry import MODELS
MODELS.build(dict(type='CmtDetector', pts_bbox_head=dict()))
"""


def test_config_that_names_the_detector_says_that_mmdet3d_is_missing():
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_MMDET3D], capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert 'ImportError' in done.stderr and 'mmdet3d is not installed' in done.stderr
