"""Train the last epochs on scenes as they were recorded, without pasted objects."""

from collections.abc import Iterator
from typing import Any

from mmdet3d.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from .nuscenes_dataset import inner_datasets


@HOOKS.register_module()
class PastingSwitchOffHook(Hook):
    """Switch ground-truth pasting off for all epochs from ``epoch`` on.

    mmdet3d's ``DisableObjectSampleHook`` acts in the one epoch whose number it is given, so that
    a run resumed later goes on pasting, and below one dataset wrapper alone. This hook acts at
    the start of every later epoch too, on every transform with an attribute ``disabled``, however
    nested, and once ends workers that live on between epochs with copies of the dataset.

    Args:
        epoch: First epoch without pasting, counted from 0: with 20 epochs and ``epoch=15`` the
            last 5 have none.

    Raises:
        ValueError: If ``epoch`` is negative.
        TypeError: Before training, if the training loop does not count epochs.
    """

    def __init__(self, epoch: int) -> None:
        if epoch < 0:
            raise ValueError(f'PastingSwitchOffHook: epoch={epoch} must not be negative')
        self.epoch = epoch

    def before_train(self, runner: Runner) -> None:
        """Say what will happen, and complain if it is nothing."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise TypeError(
                'PastingSwitchOffHook counts epochs, but the training loop is a '
                f'{type(runner.train_loop).__name__}; use train_cfg=dict(by_epoch=True, ...)'
            )
        if not list(transforms_with(runner.train_dataloader.dataset, 'disabled')):
            runner.logger.warning('PastingSwitchOffHook: nothing in the training data pastes')
        elif self.epoch >= runner.max_epochs:
            runner.logger.warning(
                f'Objects are pasted in all {runner.max_epochs} epochs: PastingSwitchOffHook has '
                f'epoch={self.epoch}; the published recipes train the last 5 of 20 without'
            )
        else:
            runner.logger.info(
                f'Objects are pasted in the first {self.epoch} of {runner.max_epochs} epochs'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Switch pasting off if it is time, and make sure that the workers know."""
        loader = runner.train_dataloader
        found = transforms_with(loader.dataset, 'disabled')
        pasting = [transform for transform in found if not transform.disabled]
        if runner.epoch < self.epoch or not pasting:
            return
        for transform in pasting:
            transform.disabled = True
        iterator = getattr(loader, '_iterator', None)
        if iterator is not None:  # there are persistent workers; the next epoch starts new ones
            iterator._shutdown_workers()
            loader._iterator = None
        runner.logger.info(f'Epoch {runner.epoch + 1}: pasting is off from here on')


def transforms_with(dataset: Any, attribute: str) -> Iterator[Any]:
    """All transforms that have an attribute, in the pipelines of a dataset, however nested."""
    steps: list[Any] = [getattr(inner, 'pipeline', ()) for inner in inner_datasets(dataset)]
    while steps:
        step = steps.pop()
        if isinstance(step, (list, tuple)):
            steps += step
            continue
        if hasattr(step, attribute):
            yield step
        steps.append(getattr(step, 'transforms', ()))
