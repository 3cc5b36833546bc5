"""CMT-style LiDAR-camera fusion for MMDetection3D with a learnable attention bias.

Importing the package registers its models, transforms and hooks; in a config:
``custom_imports = dict(imports=['cmt_bias'])``.
"""

from . import cmt, datasets, engine, visualization
from .version import __version__

__all__ = ['__version__', 'cmt', 'datasets', 'engine', 'visualization']
