"""Give the bias scale more room, epoch by epoch."""

from collections.abc import Sequence
from itertools import pairwise

from mmdet3d.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import EpochBasedTrainLoop, Runner

from .head_lookup import BiasedHead, find_biased_head

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
            the first range.
        TypeError: Before training, if the training loop does not count epochs.
    """

    # Before BiasScaleHook, which shows the range.
    priority = 'ABOVE_NORMAL'

    def __init__(self, schedule: Sequence[tuple[int, ScaleRange]]) -> None:
        self.schedule = check_schedule(schedule)
        self._head: BiasedHead | None = None

    def before_train(self, runner: Runner) -> None:
        """Find the scale, check its start value, and set the range of the present epoch."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise TypeError(
                'BiasScaleRangeHook counts epochs, but the training loop is a '
                f'{type(runner.train_loop).__name__}; use train_cfg=dict(by_epoch=True, ...)'
            )
        self._head = head = find_biased_head(runner.model, type(self).__name__)
        self.before_train_epoch(runner)
        low, high = head.generator.bounds()  # rounded as the scale is, unlike the schedule
        outside = [v for v in head.scale.detach().flatten().tolist() if not low <= v <= high]
        if outside and runner.iter == 0:
            raise ValueError(
                f'BiasScaleRangeHook: the bias scale starts at {outside[0]:g}, outside the first '
                f'range of schedule, {self.schedule[0][1]}. Change {head.config}.bias_scale or '
                'the range.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the range of the epoch, if another one began."""
        assert self._head is not None
        generator = self._head.generator
        before = generator.bounds()
        bounds = [bounds for start, bounds in self.schedule if start <= runner.epoch][-1]
        generator.set_scale_range(*bounds)
        now = generator.bounds()
        if now != before:
            MMLogger.get_current_instance().info(
                f'Epoch {runner.epoch + 1}: the bias scale may now take values in '
                f'[{now[0]:g}, {now[1]:g}], before [{before[0]:g}, {before[1]:g}].'
            )


def check_schedule(
    schedule: Sequence[tuple[int, ScaleRange]],
) -> list[tuple[int, ScaleRange]]:
    """The schedule as tuples.

    Raises:
        ValueError: If it cannot be meant; it names the entry and the remedy.
    """
    where = f'BiasScaleRangeHook: schedule={schedule!r}'
    example = 'such as schedule=[(0, (1.0, 2.5)), (5, (0.5, None))]'
    if isinstance(schedule, str) or not isinstance(schedule, Sequence) or not schedule:
        raise ValueError(f'{where} must be a list of pairs, {example}')
    checked: list[tuple[int, ScaleRange]] = []
    for entry in schedule:
        match entry:
            case (int() as epoch, (float() | int() | None as low, float() | int() | None as high)):
                checked.append((epoch, (low, high)))
            case _:
                raise ValueError(f'{where} has {entry!r}, {example}')
        if low is not None and high is not None and not low < high:
            raise ValueError(
                f'{where} has the empty range ({low:g}, {high:g}) from epoch {epoch} on: the '
                'first number must be less than the second'
            )
    epochs = [epoch for epoch, _ in checked]
    if epochs[0] != 0 or any(second <= first for first, second in pairwise(epochs)):
        raise ValueError(f'{where} has the epochs {epochs}: they must begin with 0 and increase')
    return checked
