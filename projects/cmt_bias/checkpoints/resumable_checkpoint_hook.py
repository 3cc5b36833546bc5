"""Checkpoints that survive a kill at any moment, and from which training goes on exactly."""

import os
import os.path as osp
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, get_rank, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from ..atomic_file import remove_partial_files
from ..file_lock import FileLock
from ..non_finite_numbers import is_finite
from ..unwrapping import unwrapped
from . import resume_state
from .checkpoint_report import fit_weights
from .latest_checkpoint import checkpoint_folder, find_checkpoint_to_resume, saves_locally
from .safe_loading import CheckpointError, find_nan, shorten, weights_of

LOCK_FILE = '.training.lock'


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook, with its arguments, made safe against kills and exact on resume.

    - On a file system the newest checkpoint is whole at every moment, and none with NaN in it is
      written. `resume=True` without a path passes over damaged files, with a warning.
    - `checkpoint['meta']['random_state']` has the states of all random generators of every rank
      and the sampler's seed. Validation leaves the training's random numbers untouched.
    - `torch.load(weights_only=True)` reads a checkpoint, with the logs of scalars as tensors.
    - A checkpoint that does not fit is refused, and so is a second training in the same folder.

    So a run resumed at the end of an epoch continues bit for bit on one CPU process, given
    `persistent_workers=False` (workers that outlive an epoch carry random states that nobody can
    save) and, when `num_workers=0`, a dataset without a state of its own. Inside an epoch
    (`by_epoch=False`) it does with `ResumableEpochBasedTrainLoop`, but for gradients accumulated
    so far, and with mmengine's `IterBasedTrainLoop` where worker processes load the data.
    """

    _locks: Sequence[FileLock] = ()
    # Random states: of the checkpoint that is resumed, of this process at a moment.
    _loaded: Any = None
    _before_val: Any = None
    _at_epoch_start: Any = None
    _after_skipping: Any = None

    def before_run(self, runner: Runner) -> None:
        """Lock the folders, and choose the checkpoint for `resume=True` before mmengine does."""
        if not saves_locally(self) or not isinstance(runner._train_loop, BaseLoop):
            return  # a test, which neither writes nor resumes
        self.backend_args = {'backend': 'atomic_local'}
        folder = checkpoint_folder(self, runner.work_dir)
        if is_main_process():
            folders = {osp.abspath(runner.work_dir), osp.abspath(folder)}
            self._locks = [lock_folder(locked) for locked in sorted(folders)]
        # mmengine reads these two private attributes right after this call, and has no public
        # way to choose the file.
        if runner._resume and runner._load_from is None:
            work_dir = runner.work_dir
            chosen = [find_checkpoint_to_resume(self, work_dir) if is_main_process() else None]
            broadcast_object_list(chosen)
            runner._load_from, runner._resume = chosen[0], chosen[0] is not None
            if not runner._resume:
                runner.logger.warning(
                    f"'{folder}' has no checkpoint to resume; training starts from the beginning."
                )

    def after_run(self, runner: Runner) -> None:
        """Let others train in the folders."""
        for lock in self._locks:
            lock.release()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look whether a checkpoint fits, and make what mmengine reads of it."""
        source = str(runner._load_from or 'that was loaded')
        if runner._resume:
            resume_state.check_resume(runner, checkpoint, source)
        if isinstance(runner, Runner):  # the runner for sharded models has no state dict here
            skipped = [] if runner._resume else list(runner.cfg.get('load_from_skip') or [])
            weights = weights_of(checkpoint, source)
            fit_weights(unwrapped(runner.model), weights, source, skipped, runner._resume)
        if not runner._resume:
            return
        self._loaded = checkpoint['meta'].get('random_state')
        hub = resume_state.hub_for_mmengine(checkpoint.get('message_hub'))
        checkpoint['message_hub'] = hub
        folder = checkpoint_folder(self, runner.work_dir)
        for key, path in hub['runtime_info'].items():
            # Where the folder was then may be another run's by now.
            if re.match('(last|best)_ckpt', key) and isinstance(path, str) and saves_locally(self):
                hub['runtime_info'][key] = osp.join(folder, osp.basename(path))

    def before_train(self, runner: Runner) -> None:
        """Set up mmengine's hook and, in a resumed run, restore the random state."""
        super().before_train(runner)
        if saves_locally(self) and is_main_process():
            for directory in {self.out_dir, runner.work_dir}:
                for leftover in remove_partial_files(directory):
                    runner.logger.info(f"Removed '{leftover}', left by a run that was killed.")
        if runner.iter > 0:
            self._restore_random_state(runner)
        self._loaded = None  # not for a later training of this hook
        if runner.train_dataloader.num_workers > 0 and runner.train_dataloader.persistent_workers:
            runner.logger.warning(
                'A resumed run will see other random augmentations, as worker processes outlive '
                'their epoch. For an exact resume: train_dataloader.persistent_workers=False.'
            )

    def _restore_random_state(self, runner: Runner) -> None:
        saved = self._loaded or {'ranks': []}
        number = len(saved['ranks'])
        if get_rank() >= number:
            there = f'those of {number} processes' if number else 'none (of another hook)'
            runner.logger.warning(
                f'Resumed without random state, since the checkpoint has {there}: the losses will '
                'not equal those of an uninterrupted run.'
            )
            return
        resume_state.set_sampling_seed(runner.train_dataloader, saved['sampler_seed'], runner.seed)
        state = saved['ranks'][get_rank()]
        is_inside_epoch = runner.iter != runner.epoch * len(runner.train_dataloader)
        if is_inside_epoch:
            self._after_skipping = state['now']
        # The beginning of an epoch draws the seed of its workers.
        resume_state.restore_random_state(state['epoch_start' if is_inside_epoch else 'now'])
        if is_inside_epoch and type(runner.train_loop) is EpochBasedTrainLoop:
            runner.logger.warning(
                'The epoch inside which the checkpoint was written starts anew, some batches are '
                "seen twice. Set train_cfg=dict(type='ResumableEpochBasedTrainLoop', ...)."
            )

    def after_skipping_batches(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Go on with the random numbers that followed the checkpoint.

        Called by `ResumableEpochBasedTrainLoop`; for other loops, before an iteration.
        """
        if self._after_skipping is not None:
            resume_state.restore_random_state(self._after_skipping)
            self._after_skipping = None

    before_train_iter = after_skipping_batches

    def before_train_epoch(self, runner: Runner) -> None:
        """Remember the random state."""
        self._at_epoch_start = resume_state.capture_random_state()

    def before_val(self, runner: Runner) -> None:
        """Remember the training's random state."""
        self._before_val = resume_state.capture_random_state()

    def after_val(self, runner: Runner) -> None:
        """Go on with the random numbers of training as if there had been no validation."""
        if self._before_val is not None:
            resume_state.restore_random_state(self._before_val)
            self._before_val = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to save what cannot be used, and make plain data of the rest."""
        # Infinity may be in buffers, as a range without bounds, but is no parameter.
        parameters = unwrapped(runner.model).named_parameters()
        bad = find_nan(checkpoint) or [name for name, value in parameters if not is_finite(value)]
        if bad:
            raise FloatingPointError(
                f'No checkpoint is saved at iteration {runner.iter}, since these are no numbers '
                f'any more: {shorten(bad)}. Remedy: go on from the newest checkpoint (resume), '
                'with a lower learning rate or gradient clipping'
            )
        checkpoint['meta'] = resume_state.without_numpy(checkpoint['meta'])
        checkpoint['message_hub'] = resume_state.plain_hub(checkpoint['message_hub'])

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """mmengine's method, the only one that all ranks call for every regular checkpoint."""
        # The training's own, also in the middle of a validation.
        now = self._before_val or resume_state.capture_random_state()
        sampler = resume_state.seeded_sampler(runner.train_dataloader)
        meta['random_state'] = {
            'ranks': all_gather_object({'now': now, 'epoch_start': self._at_epoch_start}),
            'sampler_seed': getattr(sampler, 'seed', None),
        }
        super()._save_checkpoint_with_step(runner, step, meta)


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(EpochBasedTrainLoop):
    """mmengine's epoch-based loop, which on resume skips the batches the epoch has already seen.

    mmengine's own starts the epoch anew after a checkpoint written inside it (`by_epoch=False`):
    it trains on some batches twice and counts its iterations wrongly. The skipped batches are
    loaded, which brings random augmentations in worker processes to where they were.
    """

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train on a batch, the `idx`-th of the epoch, unless that was done before the resume."""
        num_done = self._iter - self._epoch * len(self.dataloader)
        if idx >= num_done:
            super().run_iter(idx, data_batch)
        elif idx == num_done - 1:
            self.runner.call_hook('after_skipping_batches')


def lock_folder(folder: str | Path) -> FileLock:
    """Keep other processes from training in a folder; CheckpointError if one does already."""
    lock = FileLock(Path(folder) / LOCK_FILE)
    if not lock.acquire():
        holder = lock.path.read_text(errors='replace').strip()
        raise CheckpointError(
            f"'{folder}' is in use: {holder or 'another process'} trains there. Remedy: give "
            'this run a folder of its own (--work-dir), or end that process first'
        )
    os.ftruncate(lock.descriptor, 0)
    os.write(lock.descriptor, f'process {os.getpid()} on {socket.gethostname()}'.encode())
    return lock
