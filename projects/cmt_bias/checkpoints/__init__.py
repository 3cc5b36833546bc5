"""Checkpoints that load without running code, are written atomically and resume exactly.

Importing it registers mmengine's checkpoint loaders, the train loop and the checkpoint hook.
"""

from . import remote_loading
from .checkpoint_report import CheckpointReport, OtherModelError, compare_state_dict
from .latest_checkpoint import find_latest_intact_checkpoint
from .merged_param_groups import MergedParamGroupsConstructor
from .random_state import capture_random_state, restore_random_state
from .resumable_checkpoint_hook import ResumableCheckpointHook
from .resumable_train_loop import ResumableEpochBasedTrainLoop
from .safe_loading import (
    CheckpointError,
    DamagedCheckpointError,
    UnsafeCheckpointError,
    load_checkpoint_safely,
)
from .shipped_weights import weights_record, write_weights
from .worker_seeding import seed_worker_per_epoch

__all__ = [
    'CheckpointError',
    'CheckpointReport',
    'DamagedCheckpointError',
    'MergedParamGroupsConstructor',
    'OtherModelError',
    'ResumableCheckpointHook',
    'ResumableEpochBasedTrainLoop',
    'UnsafeCheckpointError',
    'capture_random_state',
    'compare_state_dict',
    'find_latest_intact_checkpoint',
    'load_checkpoint_safely',
    'remote_loading',
    'restore_random_state',
    'seed_worker_per_epoch',
    'weights_record',
    'write_weights',
]
