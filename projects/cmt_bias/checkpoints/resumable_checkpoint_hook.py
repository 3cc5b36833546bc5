"""Checkpoints that survive a kill at any moment, and from which training goes on exactly."""

import os
import os.path as osp
import re
import socket
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_rank, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from ..atomic_file import remove_partial_files
from ..file_lock import FileLock
from ..unwrapping import unwrapped
from .checkpoint_report import fit_weights
from .latest_checkpoint import checkpoint_folder, find_checkpoint_to_resume, saves_locally
from .random_state import (
    capture_random_state,
    restore_random_state,
    sampling_seed,
    set_sampling_seed,
)
from .resumable_train_loop import ResumableEpochBasedTrainLoop
from .resume_state import check_resume, hub_for_mmengine, plain_hub
from .safe_loading import CheckpointError, find_nan, shorten, weights_of

LOCK_FILE = '.training.lock'


class FolderInUseError(CheckpointError):
    """Another process trains in a folder; the message names both."""


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook, made safe against kills and exact on resume.

    It takes the place of the stock hook, and its arguments except `file_client_args`. What it
    changes:

    - Checkpoints are written atomically, and an outdated one is removed only after the new one is
      complete, so at every moment the newest one is whole. None with NaN in it is written.
    - `resume=True` without a path passes over missing and damaged files, with a warning.
    - The states of all random generators of every rank, and the seed of the data sampler, are
      saved in `checkpoint['meta']['random_state']` and restored on resume. Validation leaves the
      training's random numbers untouched, so that a checkpoint written before it resumes right.
    - Logs of scalars are saved as tensors, so `torch.load(weights_only=True)` reads a checkpoint.
    - Weights of another size than the model's are refused, unless the config's `load_from_skip`
      names them (:func:`fit_weights`).
    - A second training in the same folder is refused (:class:`FolderInUseError`).

    So a run resumed at the end of an epoch continues bit for bit on one CPU process, given
    `persistent_workers=False` (workers that outlive an epoch carry random states that nobody can
    save) and, when `num_workers=0`, a dataset without a state of its own. A checkpoint written
    inside an epoch (`by_epoch=False`) continues as exactly with
    :class:`ResumableEpochBasedTrainLoop`; gradients accumulated over a part of
    `accumulative_counts` are lost. mmengine's `IterBasedTrainLoop` is continued exactly where
    worker processes load the data (mmengine's own worker seeding), else but for the
    augmentations of the next batches. On a GPU, what its kernels leave undetermined remains so.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.file_client_args is not None:
            raise ValueError('ResumableCheckpointHook: use backend_args, not file_client_args')
        self._locks: list[FileLock] = []
        self._loaded_random_state: dict[str, Any] | None = None
        self._state_before_val: dict[str, Any] | None = None
        self._state_at_epoch_start: dict[str, Any] | None = None
        self._state_after_skipping: dict[str, Any] | None = None

    def before_run(self, runner: Runner) -> None:
        """Lock the folders, and choose the checkpoint for `resume=True` before mmengine does."""
        super().before_run(runner)
        if not saves_locally(self) or not isinstance(runner._train_loop, BaseLoop):
            return  # a test, which neither writes nor resumes
        self.backend_args = {'backend': 'atomic_local'}
        folder = checkpoint_folder(self, runner.work_dir)
        if is_main_process():
            for locked in sorted({osp.abspath(runner.work_dir), osp.abspath(folder)}):
                self._locks.append(lock_folder(locked))
        # mmengine reads these two private attributes right after this call, and has no public
        # way to choose the file.
        if runner._resume and runner._load_from is None:
            chosen = [
                find_checkpoint_to_resume(self, runner.work_dir) if is_main_process() else None
            ]
            broadcast_object_list(chosen)
            runner._load_from = chosen[0]
            runner._resume = chosen[0] is not None
            if chosen[0] is None:
                runner.logger.warning(
                    f"There is no checkpoint to resume from in '{folder}'; training starts from "
                    'the beginning.'
                )

    def after_run(self, runner: Runner) -> None:
        """Let others train in the folders."""
        for lock in self._locks:
            lock.release()
        self._locks = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look whether a checkpoint fits, and make what mmengine reads of it."""
        source = str(runner._load_from or 'that was loaded')
        if isinstance(runner, Runner):  # the runner for sharded models has no state dict here
            skipped = [] if runner._resume else list(runner.cfg.get('load_from_skip') or [])
            fit_weights(unwrapped(runner.model), weights_of(checkpoint, source), source, skipped)
        if not runner._resume:
            return
        check_resume(runner, checkpoint, source)
        self._loaded_random_state = checkpoint['meta'].get('random_state')
        checkpoint['message_hub'] = hub = hub_for_mmengine(checkpoint.get('message_hub'))
        for key, path in hub['runtime_info'].items():
            # Where the folder was then may be another run's by now.
            if re.match('(last|best)_ckpt', key) and isinstance(path, str) and saves_locally(self):
                folder = checkpoint_folder(self, runner.work_dir)
                hub['runtime_info'][key] = osp.join(folder, osp.basename(path))

    def before_train(self, runner: Runner) -> None:
        """Set up mmengine's hook and, in a resumed run, restore the random state."""
        super().before_train(runner)
        self.file_backend: Any = _LateRemoval(self.file_backend)
        if saves_locally(self) and is_main_process():
            for directory in {self.out_dir, runner.work_dir}:
                for leftover in remove_partial_files(directory):
                    runner.logger.info(f"Removed '{leftover}', left by a run that was killed.")
        if runner.iter > 0:
            self._restore_random_state(runner)
        self._loaded_random_state = None
        if runner.train_dataloader.num_workers > 0 and runner.train_dataloader.persistent_workers:
            runner.logger.warning(
                'A resumed run will see other random augmentations than an uninterrupted one, '
                'because worker processes outlive their epoch. Set '
                'train_dataloader.persistent_workers=False for an exact resume.'
            )

    def _restore_random_state(self, runner: Runner) -> None:
        saved = self._loaded_random_state
        rank, num_saved = get_rank(), len(saved['ranks']) if saved else 0
        if not saved or rank >= num_saved:
            runner.logger.warning(
                'Resumed without random state, since the checkpoint has '
                + (f'those of {num_saved} processes alone' if saved else 'none (of another hook)')
                + ': the losses will not equal those of an uninterrupted run.'
            )
            return
        set_sampling_seed(runner.train_dataloader, saved['sampler_seed'], runner.seed)
        state = saved['ranks'][rank]
        num_done = runner.iter - runner.epoch * len(runner.train_dataloader)
        if num_done == 0:
            restore_random_state(state['now'])
            return
        # Beginning the epoch draws the seed of its workers. What comes after the batches to be
        # skipped is restored in `after_skipping_batches`.
        restore_random_state(state['epoch_start'])
        self._state_after_skipping = state['now']
        if isinstance(runner.train_loop, ResumableEpochBasedTrainLoop):
            runner.logger.info(f'{num_done} batches of the epoch are loaded anew to be skipped.')
        elif type(runner.train_loop) is EpochBasedTrainLoop:
            runner.logger.warning(
                'The checkpoint was written inside an epoch, which EpochBasedTrainLoop starts '
                'anew: some batches are trained on twice. Set '
                f"train_cfg=dict(type='{ResumableEpochBasedTrainLoop.__name__}', max_epochs=...)."
            )

    def after_skipping_batches(self, runner: Runner) -> None:
        """Go on with the random numbers that followed the checkpoint.

        Called by :class:`ResumableEpochBasedTrainLoop`.
        """
        if self._state_after_skipping is not None:
            restore_random_state(self._state_after_skipping)
            self._state_after_skipping = None

    def before_train_epoch(self, runner: Runner) -> None:
        """Remember the random state from which the epoch's workers get their seeds."""
        self._state_at_epoch_start = capture_random_state()

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Restore the random state for loops that do not call `after_skipping_batches`."""
        super().before_train_iter(runner, *args, **kwargs)
        self.after_skipping_batches(runner)

    def before_val(self, runner: Runner) -> None:
        """Remember the training's random state."""
        self._state_before_val = capture_random_state()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Save the best checkpoint, then remove the one that it replaces."""
        super().after_val_epoch(runner, metrics or {})
        self._remove_outdated()

    def after_val(self, runner: Runner) -> None:
        """Go on with the random numbers of training as if there had been no validation."""
        if self._state_before_val is not None:
            restore_random_state(self._state_before_val)
            self._state_before_val = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to save what cannot be used, and make plain data of the rest."""
        # Infinity may be in buffers, as a range without bounds, but is no parameter.
        bad = find_nan(checkpoint) or [
            name
            for name, parameter in unwrapped(runner.model).named_parameters()
            if not torch.isfinite(parameter).all()
        ]
        if bad:
            raise FloatingPointError(
                f'No checkpoint is saved at iteration {runner.iter}, since these are no numbers '
                f'any more: {shorten(bad)}. Remedy: go on from the newest checkpoint (resume), '
                'with a lower learning rate or gradient clipping'
            )
        checkpoint['message_hub'] = plain_hub(checkpoint['message_hub'])

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Collect the random states of all ranks, save, and then remove outdated checkpoints.

        mmengine's method, the only one that all ranks call for every regular checkpoint.
        """
        # While validating, training's own random state is the one from before.
        state = {
            'now': self._state_before_val or capture_random_state(),
            'epoch_start': self._state_at_epoch_start,
        }
        meta['random_state'] = {
            'ranks': all_gather_object(state),
            'sampler_seed': sampling_seed(runner.train_dataloader),
        }
        super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_outdated()

    def _remove_outdated(self) -> None:
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        in_use = {self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best}
        if isinstance(getattr(self, 'file_backend', None), _LateRemoval):
            self.file_backend.remove_now(in_use)


class _LateRemoval:
    """A file backend that removes files when it is told that others have taken their place.

    mmengine's hook removes outdated checkpoints before it writes the new one.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._outdated: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._outdated.append(path)

    rmtree = remove

    def remove_now(self, in_use: set[str | None]) -> None:
        for path in self._outdated:
            if path not in in_use and self._backend.isdir(path):  # of deepspeed
                self._backend.rmtree(path)
            elif path not in in_use and self._backend.exists(path):
                self._backend.remove(path)
        self._outdated = []


def lock_folder(folder: str | Path) -> FileLock:
    """Keep other processes from training in a folder, which is made if need be.

    Raises:
        FolderInUseError: If another process trains there.
    """
    lock = FileLock(Path(folder) / LOCK_FILE)
    if not lock.acquire():
        holder = lock.path.read_text(errors='replace').strip()
        raise FolderInUseError(
            f"'{folder}' is in use: {holder or 'another process'} trains there. Remedy: give "
            'this run a folder of its own (--work-dir), or end that process first'
        )
    os.ftruncate(lock.descriptor, 0)
    os.write(lock.descriptor, f'process {os.getpid()} on {socket.gethostname()}'.encode())
    return lock
