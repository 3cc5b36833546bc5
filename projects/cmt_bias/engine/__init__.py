"""What runs around the model: checkpoints and resuming, hooks, checks before a run.

Importing it registers hooks, the train loop, and mmengine's checkpoint loaders.
"""

from .atomic_file import AtomicLocalBackend, write_atomically
from .bias_scale_hook import BiasScaleHook
from .bias_scale_range_hook import BiasScaleRangeHook
from .checkpoint_report import CheckpointReport, OtherModelError, compare_state_dict
from .latest_checkpoint import find_latest_intact_checkpoint
from .merged_param_groups import MergedParamGroupsConstructor
from .pasting_switch_off_hook import PastingSwitchOffHook
from .random_state import capture_random_state, restore_random_state
from .resumable_checkpoint_hook import ResumableCheckpointHook
from .resumable_train_loop import ResumableEpochBasedTrainLoop
from .run_summary_hook import RunSummaryHook
from .safe_checkpoint_loading import (
    CheckpointError,
    DamagedCheckpointError,
    UnsafeCheckpointError,
    load_checkpoint_safely,
)
from .worker_seeding import seed_worker_per_epoch

__all__ = [
    'AtomicLocalBackend',
    'BiasScaleHook',
    'BiasScaleRangeHook',
    'CheckpointError',
    'CheckpointReport',
    'DamagedCheckpointError',
    'MergedParamGroupsConstructor',
    'OtherModelError',
    'PastingSwitchOffHook',
    'ResumableCheckpointHook',
    'ResumableEpochBasedTrainLoop',
    'RunSummaryHook',
    'UnsafeCheckpointError',
    'capture_random_state',
    'compare_state_dict',
    'find_latest_intact_checkpoint',
    'load_checkpoint_safely',
    'restore_random_state',
    'seed_worker_per_epoch',
    'write_atomically',
]
