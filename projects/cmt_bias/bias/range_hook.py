"""Give the bias scale more room, epoch by epoch."""

from collections.abc import Sequence

from mmdet3d.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import EpochBasedTrainLoop, Runner

from .head_lookup import BiasedHead, find_biased_head
from .scale import BiasScale

ScaleRange = tuple[float | None, float | None]


@HOOKS.register_module()
class BiasScaleRangeHook(Hook):
    """Sets the range that the bias scale may take, by a schedule over epochs.

    The range is that of the epoch, also right after a resume. The generator keeps it in a buffer,
    which checkpoints have: testing needs no hook.

    Args:
        schedule: Pairs of an epoch, counted from 0, and the range ``(low, high)`` from its start
            on; None for an open side. For example
            ``[(0, (1.0, 2.5)), (5, (0.5, 4.0)), (15, (0.1, 5.0))]``.

    Raises:
        ValueError: If the schedule cannot be meant; before training, if a start value is outside
            the first range, or the config has a range as well.
        TypeError: Before training, if the training loop does not count epochs.
    """

    # Before BiasScaleHook, which shows the range.
    priority = 'ABOVE_NORMAL'

    def __init__(self, schedule: Sequence[tuple[int, ScaleRange]]) -> None:
        try:
            self.schedule = [(epoch, (low, high)) for epoch, (low, high) in schedule]
            epochs = [epoch for epoch, _ in self.schedule]
            is_meant = epochs[0] == 0 and epochs == sorted(set(epochs))
            for _, (low, high) in self.schedule:
                BiasScale().set_scale_range(low, high)
        except (TypeError, ValueError, IndexError):
            is_meant = False
        if not is_meant:
            raise ValueError(
                f'BiasScaleRangeHook: schedule={schedule!r} must be a list of pairs: an epoch, '
                'from 0 on and increasing, and a range (low, high), where low is less than high '
                'and None is an open side, such as [(0, (1.0, 2.5)), (5, (0.5, None))]'
            )

    def before_train(self, runner: Runner) -> None:
        """Find the scale, check its start value, and set the range of the present epoch."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise TypeError(
                'BiasScaleRangeHook counts epochs, but the training loop is a '
                f'{type(runner.train_loop).__name__}; use train_cfg=dict(by_epoch=True, ...)'
            )
        self._head: BiasedHead = find_biased_head(runner.model, type(self).__name__)
        generator, config = self._head.generator, self._head.config
        if generator.range_is_configured:
            raise ValueError(
                f'BiasScaleRangeHook: {config} has min_scale or max_scale, which would hold '
                'in testing in place of the range of the schedule; remove them, or this hook.'
            )
        late = [epoch for epoch, _ in self.schedule if epoch >= runner.max_epochs]
        if late:
            MMLogger.get_current_instance().warning(
                f'BiasScaleRangeHook: the ranges from epoch {late[0]} on never apply, since '
                f'training has {runner.max_epochs} epochs (counted from 0); let schedule begin '
                'them earlier, or remove them.'
            )
        self.before_train_epoch(runner)
        low, high = generator.bounds()  # rounded as the scale is, unlike the schedule
        outside = [v for v in generator.bias_scale.flatten().tolist() if not low <= v <= high]
        if outside and runner.iter == 0:
            raise ValueError(
                f'BiasScaleRangeHook: the bias scale starts at {outside[0]:g}, outside the first '
                f'range of schedule, {self.schedule[0][1]}. Change {config}.bias_scale or '
                'the range.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the range of the epoch, if another one began."""
        generator = self._head.generator
        before = generator.bounds()
        *_, (low, high) = (bounds for start, bounds in self.schedule if start <= runner.epoch)
        generator.set_scale_range(low, high)
        now = generator.bounds()
        if now != before:
            MMLogger.get_current_instance().info(
                f'Epoch {runner.epoch + 1}: the bias scale may now take values in '
                f'[{now[0]:g}, {now[1]:g}], before [{before[0]:g}, {before[1]:g}].'
            )
