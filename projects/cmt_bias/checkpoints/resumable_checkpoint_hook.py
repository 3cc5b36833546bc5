"""Checkpoints that survive a kill at any moment, and from which training goes on exactly."""

import os.path as osp
from functools import partial
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, get_rank, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from ..atomic_file import remove_partial_files, write_atomically
from .latest_checkpoint import LAST_CHECKPOINT_FILE, find_latest_intact_checkpoint
from .merged_param_groups import check_saved_param_groups
from .random_state import capture_random_state, restore_random_state
from .resumable_train_loop import ResumableEpochBasedTrainLoop


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook, made safe against kills and exact on resume.

    Use it in place of the stock hook: `default_hooks = dict(checkpoint=dict(
    type='ResumableCheckpointHook', interval=1))`. What it changes:

    - Checkpoints and `last_checkpoint` are written atomically, and an outdated checkpoint is
      removed only after the new one is complete, so at every moment the newest one is whole.
    - `resume=True` without a path passes over missing and truncated files, with a warning.
    - The states of all random generators of every rank, and the seed of the data sampler, are
      saved in `checkpoint['meta']['random_state']` and restored on resume. Validation leaves the
      training's random numbers untouched, so that a checkpoint written before it resumes right.

    With these a run resumed at the end of an epoch continues bit for bit on one CPU process, given

    - `persistent_workers=False`: workers that outlive an epoch carry random states that nobody can
      save (a warning reminds of it);
    - a dataset without a state of its own in the training process, when `num_workers=0`.

    A checkpoint written inside an epoch (`by_epoch=False`) continues as exactly with
    :class:`ResumableEpochBasedTrainLoop`; gradients accumulated over a part of
    `accumulative_counts` are lost. mmengine's `IterBasedTrainLoop` is continued exactly where
    worker processes load the data (mmengine's own worker seeding), else but for the
    augmentations of the next batches. On a GPU, what its kernels leave undetermined remains so.

    Takes the arguments of :class:`mmengine.hooks.CheckpointHook`; `backend_args` is for remote
    stores, `file_client_args` is not supported.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.file_client_args is not None:
            raise ValueError('ResumableCheckpointHook: use backend_args, not file_client_args')
        self._loaded_random_state: dict[str, Any] | None = None
        self._state_before_val: dict[str, Any] | None = None
        self._state_at_epoch_start: dict[str, Any] | None = None
        self._state_after_skipping: dict[str, Any] | None = None

    @property
    def _saves_locally(self) -> bool:
        return '://' not in str(self.out_dir or '') and self.backend_args in (
            None,
            {'backend': 'local'},
            {'backend': 'atomic_local'},
        )

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint for `resume=True` without a path, before mmengine does."""
        super().before_run(runner)
        if self._saves_locally:
            self.backend_args = {'backend': 'atomic_local'}
        # mmengine reads these two private attributes right after this call, and has no public
        # way to choose the file.
        if runner._resume and runner._load_from is None and self._saves_locally:
            chosen = [
                find_latest_intact_checkpoint(
                    runner.work_dir, self._directory(runner), self.filename_tmpl
                )
            ]
            broadcast_object_list(chosen)
            runner._load_from = chosen[0]
            runner._resume = chosen[0] is not None
            if chosen[0] is None:
                runner.logger.warning(
                    f"There is no checkpoint to resume from in '{self._directory(runner)}'; "
                    'training starts from the beginning.'
                )

    def _directory(self, runner: Runner) -> str:
        """Folder that checkpoints go to, as mmengine will set `out_dir` in `before_train`."""
        if self.out_dir is None or self.out_dir == runner.work_dir:
            return runner.work_dir
        return osp.join(self.out_dir, osp.basename(runner.work_dir.rstrip(osp.sep)))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the saved random state for `before_train`; look whether the optimizer fits."""
        saved = checkpoint.get('optimizer')
        if runner._resume and saved and isinstance(runner.optim_wrapper, OptimWrapper):
            check_saved_param_groups(runner.optim_wrapper, saved)
        meta = checkpoint.get('meta') or {}
        self._loaded_random_state = meta.get('random_state')

    def before_train(self, runner: Runner) -> None:
        """Set up mmengine's hook and, in a resumed run, restore the random state."""
        super().before_train(runner)
        if self._saves_locally and is_main_process():
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
            reason = (
                f'the checkpoint has random states of {num_saved} processes alone'
                if saved
                else 'the checkpoint has no random state (another hook saved it)'
            )
            runner.logger.warning(
                f'Resumed without random state, since {reason}: the losses will '
                'not equal those of an uninterrupted run.'
            )
            return
        _set_sampling_seed(runner.train_dataloader, saved['sampler_seed'], runner.seed)
        state = saved['ranks'][rank]
        if not self._is_inside_epoch(runner):
            restore_random_state(state['now'])
            return
        # Beginning the epoch draws the seed of its workers. What comes after the batches to be
        # skipped is restored in `after_skipping_batches`.
        restore_random_state(state['epoch_start'])
        self._state_after_skipping = state['now']
        if type(runner.train_loop) is EpochBasedTrainLoop:
            runner.logger.warning(
                'The checkpoint was written inside an epoch, which EpochBasedTrainLoop starts '
                'anew: some batches are trained on twice. Set '
                f"train_cfg=dict(type='{ResumableEpochBasedTrainLoop.__name__}', max_epochs=...)."
            )

    @staticmethod
    def _is_inside_epoch(runner: Runner) -> bool:
        return runner.iter != runner.epoch * len(runner.train_dataloader)

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

    def after_val(self, runner: Runner) -> None:
        """Go on with the random numbers of training as if there had been no validation."""
        if self._state_before_val is not None:
            restore_random_state(self._state_before_val)
            self._state_before_val = None

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save a checkpoint, then say that it is the newest, then remove outdated ones.

        Replaces mmengine's method, which removes first. Called on every rank.
        """
        meta['random_state'] = self._gather_random_state(runner)
        outdated = self._register_step(runner, step)
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            pointer = osp.join(runner.work_dir, LAST_CHECKPOINT_FILE)
            write_atomically(pointer, str(self.last_ckpt).encode())
            for old_step in outdated:
                self._remove(
                    self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old_step))
                )

    def _gather_random_state(self, runner: Runner) -> dict[str, Any]:
        # While validating, training's own random state is the one from before.
        state = {
            'now': self._state_before_val or capture_random_state(),
            'epoch_start': self._state_at_epoch_start,
        }
        sampler = _find_sampler(runner.train_dataloader)
        return {
            'ranks': all_gather_object(state),
            'sampler_seed': getattr(sampler, 'seed', None),
        }

    def _register_step(self, runner: Runner, step: int) -> list[int]:
        """Note that a checkpoint is kept; returns the steps that are kept no longer."""
        if self.max_keep_ckpts <= 0 or (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            return []
        kept = [*self.keep_ckpt_ids, step]
        self.keep_ckpt_ids.append(step)  # a deque that drops what exceeds max_keep_ckpts
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return kept[: -self.max_keep_ckpts]

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint before the previous best is removed, not after."""
        if not self.save_best:
            return
        previous = self._best_paths()
        self._set_best_paths(dict.fromkeys(previous))  # hides them from removal by mmengine
        super()._save_best_checkpoint(runner, metrics)
        best = self._best_paths()
        self._set_best_paths({key: best.get(key) or previous.get(key) for key in best})
        if is_main_process():
            kept = set(self._best_paths().values())
            for path in previous.values():
                if path and path not in kept:
                    self._remove(path)

    def _best_paths(self) -> dict[str, str | None]:
        """Path of the best checkpoint for each metric that has one of its own."""
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    def _set_best_paths(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = paths


def _find_sampler(dataloader: DataLoader) -> Any:
    """The sampler that shuffles, which may sit inside a batch sampler."""
    if hasattr(dataloader.sampler, 'seed'):
        return dataloader.sampler
    return getattr(dataloader.batch_sampler, 'sampler', None)


def _set_sampling_seed(dataloader: DataLoader, sampler_seed: int | None, seed: int) -> None:
    """Give sampler and workers the seeds of the run that is resumed.

    They were built before the checkpoint was read, hence with this process's own seed, which is
    another one where the config sets none.
    """
    sampler = _find_sampler(dataloader)
    if sampler_seed is not None and hasattr(sampler, 'seed'):
        sampler.seed = sampler_seed
    init_function = dataloader.worker_init_fn
    if isinstance(init_function, partial) and 'seed' in init_function.keywords:
        dataloader.worker_init_fn = partial(init_function, seed=seed)
