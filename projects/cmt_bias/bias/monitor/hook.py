"""Follow the strength of the attention bias through training."""

from pathlib import Path
from typing import Any

from mmdet3d.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from ..head_lookup import BiasedHead, find_biased_head
from . import history, plot
from .rules import BiasScaleWatch, read_ending
from .scale_optimizer import ScaleOptimizer, find_scale_optimizer
from .weight_probe import WeightProbe


@HOOKS.register_module()
class BiasScaleHook(Hook):
    """Logs the bias scale, its gradient and the weights, and says what they mean.

    Every ``interval`` iterations, and in the last one:

    - to mmengine's message hub, and with it to the console line, ``vis_data/*.json`` and
      TensorBoard: ``bias_scale/<entry>``, ``bias_scale_grad/<entry>``, ``bias_scale_lr``,
      ``router/lidar_mean``, ``router/lidar_std``, ``router/camera_mean``, ``router/camera_std``;
    - with raw values and range to ``work_dir/bias_scale.csv``, which a kill or a resume leaves
      without gaps and doubles.

    ``work_dir/bias_scale_curve.png`` is drawn from it at every checkpoint and at the end.

    The scale is the one in effect after the iteration. Its gradient is the one of the optimizer's
    latest step: mean over all processes and accumulated iterations, without AMP's loss scale,
    after clipping. The weights are those of this iteration's batch on the first process,
    denoising queries included; their spread is the standard deviation.

    With a learnable scale it says at the start how far the learning rate can move it, warns of
    what keeps it from learning, each thing once, and reads the result at the end. With a fixed
    scale it only logs. Other iterations are left alone: nothing is hooked to the model in them.

    Args:
        interval: Iterations from one row to the next.
        draw_curve: Whether to draw the picture.

    Raises:
        ValueError: If ``interval`` is not positive; before training, if the model has no part with
            an attention bias, or several.
    """

    # Before mmengine's LoggerHook (BELOW_NORMAL), which shows what the message hub has.
    priority = 'NORMAL'

    def __init__(self, interval: int = 100, draw_curve: bool = True) -> None:
        if interval < 1:
            raise ValueError(f'BiasScaleHook: interval={interval} must be 1 or more iterations')
        self.interval = interval
        self.draw_curve = draw_curve
        self._head: BiasedHead | None = None  # stays None in all processes but the first
        self._optimizer: ScaleOptimizer | None = None
        self._watch: BiasScaleWatch | None = None  # only for a learnable scale
        self._weight_probe = WeightProbe()

    def before_train(self, runner: Runner) -> None:
        """Begin or go on with the history, and say what is to be expected."""
        head = find_biased_head(runner.model, type(self).__name__)
        if not is_main_process():
            return
        self._head, generator = head, head.generator
        names = generator.scale_names()
        self._history = history.BiasScaleHistory(Path(runner.work_dir) / history.FILE_NAME, names)
        self._history.begin(runner.iter)
        travel = None
        if generator.learnable_scale:
            if head.scale.requires_grad:
                self._optimizer = find_scale_optimizer(runner.optim_wrapper, head.scale)
            judged = None
            if self._optimizer is not None:
                travel = self._optimizer.travel(runner)
                judged = travel if self._optimizer.is_like_adam and runner.iter == 0 else None
            self._watch = BiasScaleWatch(head, self._optimizer, judged)
        record = self._record(runner, runner.iter)
        shown: dict[str, Any] = dict(record)
        lines = [
            'Bias scale:',
            f'{head.scale_name}: {"learnable" if self._watch else "fixed"}, '
            f'{generator.scale_granularity}',
            ', '.join(f'{name} {shown[f"bias_scale/{name}"]:.4g}' for name in names)
            + '; range [{range_low:g}, {range_high:g}]'.format(**shown),
            f"history: '{self._history.path}', every {self.interval} iterations",
        ]
        if self._optimizer is not None:
            lines.append(
                "how its learning rate sums up over the run's steps is not known beforehand"
                if travel is None
                else f'its learning rate sums up to {travel:.3g} over the '
                + ("run's steps" if runner.iter == 0 else 'steps that are left')
                + ', about as far as Adam can move it' * self._optimizer.is_like_adam
            )
        MMLogger.get_current_instance().info('\n  '.join(lines))
        if runner.iter == 0:
            self._history.append(record)
        self._tell(runner, record)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Attach the probes if this iteration is to be logged."""
        if self._head is None:
            return
        left = self._iterations_left(runner)
        # The step may lie a few iterations back where gradients are accumulated.
        if self._optimizer is not None and left < self._optimizer.accumulated:
            self._optimizer.watch_steps()
        if left == 0:
            self._weight_probe.attach(self._head.weight_generator)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Take what the probes have seen, and log it."""
        if self._head is None or self._iterations_left(runner) > 0:
            return
        record = self._record(runner, runner.iter + 1) | self._weight_probe.take()
        steps = self._optimizer.take_gradients() if self._optimizer else []
        if steps and steps[-1] is not None:
            record |= self._entries('bias_scale_grad', steps[-1].tolist())
        self._history.append(record)
        self._tell(runner, record, lacks_gradient=bool(steps) and steps[-1] is None)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Draw the curve so far."""
        if self._head is not None and self.draw_curve:
            self._show(ended=False)

    def after_train(self, runner: Runner) -> None:
        """Draw the whole curve, and say what the value means."""
        if self._head is not None:
            self._show(ended=True)

    def _iterations_left(self, runner: Runner) -> int:
        """Iterations until the next one that is logged; 0 in that one."""
        done = runner.iter + 1
        return min(-done % self.interval, max(runner.max_iters - done, 0))

    def _entries(self, kind: str, values: list[float]) -> dict[str, float | None]:
        assert self._head is not None
        names = self._head.generator.scale_names()
        return {f'{kind}/{name}': value for name, value in zip(names, values, strict=True)}

    def _record(self, runner: Runner, iteration: int) -> dict[str, float | None]:
        """The scale as it is now."""
        assert self._head is not None
        low, high = self._head.generator.bounds()
        return {
            'iteration': iteration,
            'epoch': runner.epoch + 1,
            'learning_rate': self._optimizer.group['lr'] if self._optimizer else None,
            **self._entries('bias_scale', self._head.scales_in_effect()),
            **self._entries('bias_scale_raw', self._head.scale.detach().flatten().tolist()),
            'range_low': low,
            'range_high': high,
        }

    def _tell(self, runner: Runner, record: history.Record, lacks_gradient: bool = False) -> None:
        """Give a record to the message hub, and to the rules."""
        for column, value in record.items():
            if column.startswith(('bias_scale/', 'bias_scale_grad/')):
                key = column
            elif column == 'learning_rate':
                key = 'bias_scale_lr'
            elif column.endswith(('_mean', '_std')):
                key = f'router/{column}'
            else:
                continue
            if value is not None:
                runner.message_hub.update_scalar(f'train/{key}', value)
        for warning in self._watch.check(record, lacks_gradient) if self._watch else []:
            MMLogger.get_current_instance().warning(warning)

    def _show(self, ended: bool) -> None:
        """Draw the curve; at the end of training say what it means."""
        assert self._head is not None
        logger, path = MMLogger.get_current_instance(), self._history.path
        try:
            rows = history.read_history(path)
            if self.draw_curve:
                plot.save_bias_scale_curve(path.with_name(plot.FILE_NAME), rows)
        except Exception as error:  # must not cost the checkpoint that is being written
            logger.warning(f"the curve of '{path}' could not be drawn: {error!r}")
            return
        if self._watch is None or rows.empty or not ended:
            return
        optimizer = self._optimizer
        settings = (optimizer.accumulated, optimizer.is_like_adam) if optimizer else ()
        lines = [read_ending(rows, name, *settings) for name in self._head.generator.scale_names()]
        logger.info('\n  '.join(['Bias scale at the end:', *lines]))
