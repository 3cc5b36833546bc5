"""Checkpoints that load without running code, are written atomically and resume exactly.

Importing it registers mmengine's checkpoint loaders, the train loop and the checkpoint hook.
"""

from . import remote_loading
from .merged_param_groups import MergedParamGroupsConstructor
from .random_state import seed_worker_per_epoch
from .resumable_checkpoint_hook import ResumableCheckpointHook, ResumableEpochBasedTrainLoop
from .safe_loading import CheckpointError, load_checkpoint_safely
from .shipped_weights import weights_record

__all__ = [
    'CheckpointError',
    'MergedParamGroupsConstructor',
    'ResumableCheckpointHook',
    'ResumableEpochBasedTrainLoop',
    'load_checkpoint_safely',
    'remote_loading',
    'seed_worker_per_epoch',
    'weights_record',
]
