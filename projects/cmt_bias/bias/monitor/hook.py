"""Follow the strength of the attention bias through training."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mmdet3d.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from ..biased_heads import BiasedHead, find_biased_head
from . import history as bias_scale_history
from . import plot as bias_scale_curve
from .diagnosis import BiasScaleWatch, optimizer_warnings, start_warnings, travel_warnings
from .history import BiasScaleHistory, BiasScaleRecord
from .probes import GradientProbe, WeightProbe
from .reading import read_bias_scale
from .travel import ScaleOptimizer, Travel, find_scale_optimizer, find_travel


@HOOKS.register_module()
class BiasScaleHook(Hook):
    """Logs the bias scale, its gradient and the weights, and says what they mean.

    Every ``interval`` iterations, and in the last one:

    - to mmengine's message hub, and with it to the console line, ``vis_data/*.json`` and
      TensorBoard: ``bias_scale/<entry>``, ``bias_scale_grad/<entry>``, ``bias_scale_lr``,
      ``router/lidar_mean``, ``router/lidar_std``, ``router/camera_mean``, ``router/camera_std``;
    - to ``work_dir/bias_scale.csv``, which a kill or a resume leaves without gaps and doubles.

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
        self._scale_optimizer: ScaleOptimizer | None = None
        self._travel: Travel | None = None
        self._weight_probe = WeightProbe()
        self._gradient_probe: GradientProbe | None = None

    @property
    def _is_learnable(self) -> bool:
        return self._head is not None and bool(self._head.generator.learnable_scale)

    def before_run(self, runner: Runner) -> None:
        """Find the scale and its optimizer."""
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            return  # validation or testing alone
        head = find_biased_head(runner.model, type(self).__name__)
        if not is_main_process():
            return
        self._head = head
        if not (self._is_learnable and head.scale.requires_grad):
            return
        self._scale_optimizer = find_scale_optimizer(runner.optim_wrapper, head.scale)
        if self._scale_optimizer is None:
            return
        self._gradient_probe = GradientProbe(self._scale_optimizer.optimizer, head.scale)

    def before_train(self, runner: Runner) -> None:
        """Begin or go on with the history, and say what is to be expected."""
        if self._head is None:
            return
        if self._scale_optimizer is not None:
            self._travel = find_travel(
                self._scale_optimizer,
                runner.param_schedulers,
                runner.max_iters,
                len(runner.train_dataloader),
            )
        names = list(self._head.generator.scale_names())
        key = self._head.config_key('bias_scale')
        self._history = BiasScaleHistory(
            Path(runner.work_dir) / bias_scale_history.FILE_NAME, names
        )
        self._watch = BiasScaleWatch(self._head.scale_name, names, key)
        self._history.begin(runner.iter)
        first = self._record(runner, runner.iter)
        logger = MMLogger.get_current_instance()
        logger.info('\n  '.join(['Bias scale:', *self._describe(first)]))
        warnings = self._watch.check(first) if self._is_learnable else []
        if runner.iter == 0:
            self._history.append(first)
            if self._is_learnable:
                warnings = start_warnings(names, first.scales, key) + warnings
        for warning in self._setting_warnings() + warnings:
            logger.warning(warning)
        self._tell_message_hub(runner, first)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Attach the probes if this iteration is to be logged."""
        if self._head is None:
            return
        left = self._iterations_left(runner)
        # The step may lie a few iterations back where gradients are accumulated.
        steps_in = self._scale_optimizer.accumulated if self._scale_optimizer else 0
        if self._gradient_probe is not None and left < steps_in:
            self._gradient_probe.attach()
        if left == 0:
            self._weight_probe.attach(self._head.weight_generator)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Take what the probes have seen, and log it."""
        if self._head is None or self._iterations_left(runner) > 0:
            return
        self._weight_probe.detach()
        record = self._record(runner, runner.iter + 1)
        record = replace(record, weights=self._weight_probe.statistics())
        record, is_missing = self._with_gradient(record)
        self._history.append(record)
        self._tell_message_hub(runner, record)
        if self._is_learnable:
            for warning in self._watch.check(record, is_missing):
                MMLogger.get_current_instance().warning(warning)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Draw the curve so far."""
        self._draw()

    def after_train(self, runner: Runner) -> None:
        """Draw the whole curve, and say what the value means."""
        if self._head is None:
            return
        self._draw()
        if self._is_learnable:
            logger = MMLogger.get_current_instance()
            logger.info('\n  '.join(['Bias scale at the end:', *self._reading()]))

    def _iterations_left(self, runner: Runner) -> int:
        """Iterations until the next one that is logged; 0 in that one."""
        done = runner.iter + 1
        return min(-done % self.interval, max(runner.max_iters - done, 0))

    def _record(self, runner: Runner, iteration: int) -> BiasScaleRecord:
        """The scale as it is now."""
        assert self._head is not None
        return BiasScaleRecord(
            iteration=iteration,
            epoch=runner.epoch + 1,
            scales=tuple(self._head.scales_in_effect()),
            scale_range=self._head.scale_range(),
            learning_rate=self._scale_optimizer.group['lr'] if self._scale_optimizer else None,
        )

    def _with_gradient(self, record: BiasScaleRecord) -> tuple[BiasScaleRecord, bool]:
        """Add the latest step's gradient; also whether there was a step without one."""
        probe = self._gradient_probe
        if probe is None:
            return record, False
        probe.detach()
        stepped, gradient = probe.stepped, probe.gradient
        probe.clear()
        if gradient is None:
            return record, stepped
        return replace(record, gradients=tuple(gradient.tolist())), False

    def _tell_message_hub(self, runner: Runner, record: BiasScaleRecord) -> None:
        values: dict[str, float] = {}
        for index, name in enumerate(self._history.scale_names):
            values[f'bias_scale/{name}'] = record.scales[index]
            if record.gradients is not None:
                values[f'bias_scale_grad/{name}'] = record.gradients[index]
        if record.learning_rate is not None:
            values['bias_scale_lr'] = record.learning_rate
        if record.weights is not None:
            values.update(
                {f'router/{key}': value for key, value in asdict(record.weights).items()}
            )
        for key, value in values.items():
            runner.message_hub.update_scalar(f'train/{key}', value)

    def _describe(self, record: BiasScaleRecord) -> list[str]:
        """Lines for the log about the scale and the way it can go."""
        assert self._head is not None
        generator = self._head.generator
        kind = 'learnable' if self._is_learnable else 'fixed'
        scales = zip(self._history.scale_names, record.scales, strict=True)
        low, high = record.scale_range
        lines = [
            f'{self._head.scale_name}: {kind}, {generator.scale_granularity}',
            ', '.join(f'{name} {scale:.4g}' for name, scale in scales)
            + f'; range [{low:g}, {high:g}]',
            f"history: '{self._history.path}', every {self.interval} iterations",
        ]
        if self._travel is not None and self._scale_optimizer is not None:
            left = self._travel.after(record.iteration)
            lines.append(
                f"its learning rate sums up to {self._travel.total:.3g} over the run's steps"
                + (f', {left:.3g} of it from here on' if record.iteration else '')
                + (
                    ': about the longest way that Adam can move it'
                    if self._scale_optimizer.is_like_adam
                    else ''
                )
            )
        return lines

    def _setting_warnings(self) -> list[str]:
        """Warnings about the optimizer and its schedule."""
        if self._head is None or not self._is_learnable:
            return []
        name, requires_grad = self._head.scale_name, self._head.scale.requires_grad
        warnings = optimizer_warnings(name, requires_grad, self._scale_optimizer)
        if self._travel and self._scale_optimizer and self._scale_optimizer.is_like_adam:
            warnings += travel_warnings(name, self._travel.total)
        return warnings

    def _reading(self) -> list[str]:
        """Lines for the log about the result."""
        optimizer = self._scale_optimizer
        return read_bias_scale(
            self._history.read(),
            self._history.scale_names,
            accumulated=optimizer.accumulated if optimizer else 1,
            like_adam=optimizer.is_like_adam if optimizer else True,
        )

    def _draw(self) -> None:
        if self._head is None or not self.draw_curve:
            return
        path = self._history.path.with_name(bias_scale_curve.FILE_NAME)
        try:
            bias_scale_curve.save_bias_scale_curve(
                path, self._history.read(), self._history.scale_names
            )
        except Exception as error:  # a picture must not cost the checkpoint that is being written
            MMLogger.get_current_instance().warning(f"'{path}' could not be drawn: {error!r}")
