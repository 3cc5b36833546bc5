"""CMT-style LiDAR-camera fusion for MMDetection3D with a learnable attention bias.

Importing the package registers its models, transforms and hooks; in a config:
``custom_imports = dict(imports=['cmt_bias'])``. Without mmdet3d it has ``ops`` and the maths of
``bias``, which need torch alone.
"""

from . import bias, ops
from .framework import HAS_MMDET3D, explain_missing_framework
from .shipped_configs import config_path
from .version import __version__

__all__ = ['__version__', 'bias', 'config_path', 'ops']

if HAS_MMDET3D:
    from . import checkpoints, cmt, datasets, failures, pretraining, runs, visualization
    from .atomic_file import AtomicLocalBackend, write_atomically
    from .bias import monitor

    __all__ += [
        'AtomicLocalBackend',
        'checkpoints',
        'cmt',
        'datasets',
        'failures',
        'monitor',
        'pretraining',
        'runs',
        'visualization',
        'write_atomically',
    ]
else:
    explain_missing_framework()
