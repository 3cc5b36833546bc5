"""Checkpoints that load without running code, are written atomically and resume exactly."""

from .merged_param_groups import MergedParamGroupsConstructor
from .resumable_checkpoint_hook import ResumableCheckpointHook, ResumableEpochBasedTrainLoop
from .resume_state import seed_worker_per_epoch
from .safe_loading import CheckpointError, load_checkpoint_safely
from .shipped_weights import weights_record

__all__ = [
    'CheckpointError',
    'MergedParamGroupsConstructor',
    'ResumableCheckpointHook',
    'ResumableEpochBasedTrainLoop',
    'load_checkpoint_safely',
    'seed_worker_per_epoch',
    'weights_record',
]
