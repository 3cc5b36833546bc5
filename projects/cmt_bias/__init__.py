"""CMT-style LiDAR-camera fusion for MMDetection3D with a learnable attention bias.

Importing the package registers its models, transforms and hooks; in a config:
``custom_imports = dict(imports=['cmt_bias'])``.
"""

from . import bias, checkpoints, cmt, datasets, failures, ops, pretraining, runs, visualization
from .atomic_file import AtomicLocalBackend, write_atomically
from .bias import monitor
from .shipped_configs import config_path
from .version import __version__

__all__ = [
    'AtomicLocalBackend',
    '__version__',
    'bias',
    'checkpoints',
    'cmt',
    'config_path',
    'datasets',
    'failures',
    'monitor',
    'ops',
    'pretraining',
    'runs',
    'visualization',
    'write_atomically',
]
