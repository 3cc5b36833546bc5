"""CMT-style LiDAR-camera fusion for MMDetection3D with a learnable attention bias.

Importing the package registers its models, transforms and hooks; in a config:
``custom_imports = dict(imports=['cmt_bias'])``.
"""

from . import bias, cmt, datasets, engine, ops, visualization
from .shipped_configs import config_path
from .version import __version__

__all__ = [
    '__version__',
    'bias',
    'cmt',
    'config_path',
    'datasets',
    'engine',
    'ops',
    'visualization',
]
