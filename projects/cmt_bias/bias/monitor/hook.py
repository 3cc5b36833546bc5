"""Follow the strength of the attention bias through training."""

from pathlib import Path
from typing import Any

import torch
from mmdet3d.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import Tensor, nn

from ...atomic_file import save_figure
from ...ops import MODALITIES
from ..head_lookup import BiasedHead, find_biased_head
from . import history, plot
from .rules import BiasScaleWatch, read_ending
from .scale_optimizer import ScaleOptimizer, find_scale_optimizer


@HOOKS.register_module()
class BiasScaleHook(Hook):
    """Logs the bias scale, its gradient and the weights, and says what they mean.

    Every ``interval`` iterations, and in the last one, a record goes to
    ``work_dir/bias_scale.csv`` (:func:`history.columns` explains it), which a kill or a resume
    leaves without gaps and doubles; but for raw values and range to mmengine's message hub, and
    so to the console line, ``vis_data/*.json`` and TensorBoard; and with a learnable scale to the
    rules, which warn of what keeps it from learning.

    Weights are those of this iteration's batch on the first process, denoising queries included;
    several calls of the weight generator in an iteration count together.

    Args:
        interval: Iterations from one row to the next.
        draw_curve: Draw ``work_dir/bias_scale_curve.png`` at every checkpoint and at the end.

    Raises:
        ValueError: Before training, if the model has no part with an attention bias, or several.
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
        # (B, Q) of LiDAR and cameras, for each call; None between iterations, as in validation
        self._weights: list[tuple[Tensor, ...]] | None = None

    def before_train(self, runner: Runner) -> None:
        """Begin or go on with the history, and say what is to be expected."""
        head = find_biased_head(runner.model, type(self).__name__)
        if not is_main_process():
            return
        self._head, generator = head, head.generator
        names, (low, high) = generator.scale_names(), generator.bounds()
        path = Path(runner.work_dir) / history.FILE_NAME
        self._history = history.BiasScaleHistory(path, names)
        self._history.begin(runner.iter)
        self._handle = head.weight_generator.register_forward_hook(self._keep_weights)
        values = zip(names, generator.scale_in_effect().flatten().tolist(), strict=True)
        starts = ', '.join(f'{name} {value:.4g}' for name, value in values)
        kind = 'learnable' if generator.learnable_scale else 'fixed'
        text = f'Bias scale {head.scale_name}: {kind}, {starts}; range [{low:g}, {high:g}]'
        if generator.learnable_scale:
            judged = None
            if generator.bias_scale.requires_grad:
                self._optimizer = find_scale_optimizer(runner.optim_wrapper, generator.bias_scale)
            if self._optimizer is not None:
                travel = self._optimizer.travel(runner)
                told = 'is not known beforehand' if travel is None else f'sums up to {travel:.3g}'
                text += f'; its learning rate over the steps to come {told}'
                judged = travel if self._optimizer.is_like_adam and runner.iter == 0 else None
            self._watch = BiasScaleWatch(head, self._optimizer, judged)
        MMLogger.get_current_instance().info(text)
        self._take_record(runner, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begin to keep the weights."""
        self._weights = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log the iteration, if it is one to be logged."""
        done = runner.iter + 1
        if self._head is not None and (done % self.interval == 0 or done == runner.max_iters):
            self._take_record(runner, done)
        self._weights = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Draw the curve so far."""
        if self._head is not None and self.draw_curve:
            self._show(ended=False)

    def after_train(self, runner: Runner) -> None:
        """Draw the whole curve, and say what the value means."""
        if self._head is not None:
            self._show(ended=True)
            self._handle.remove()
            if self._optimizer is not None:
                self._optimizer.handle.remove()

    def _keep_weights(self, module: nn.Module, args: Any, weights: tuple[Tensor, Tensor]) -> None:
        if self._weights is not None:
            self._weights.append(tuple(of_modality.detach() for of_modality in weights))

    def _take_record(self, runner: Runner, iteration: int) -> None:
        """Give a record to the history, the message hub and the rules."""
        assert self._head is not None
        generator, optimizer = self._head.generator, self._optimizer
        shown: dict[str, float] = {}
        entries = {'bias_scale': generator.scale_in_effect().flatten().tolist()}
        low, high = generator.bounds()
        record: dict[str, float | None] = dict(range_low=low, range_high=high)
        record |= dict(iteration=iteration, epoch=runner.epoch + 1)
        if optimizer is not None:
            record['learning_rate'] = shown['bias_scale_lr'] = optimizer.group['lr']
            if (gradient := optimizer.gradient) is not None:
                entries['bias_scale_grad'] = gradient
        names, raw = generator.scale_names(), generator.bias_scale.flatten().tolist()
        for kind, values in entries.items():
            shown |= {f'{kind}/{name}': value for name, value in zip(names, values, strict=True)}
        record |= shown | {f'bias_scale_raw/{name}': v for name, v in zip(names, raw, strict=True)}
        calls = self._weights or []
        for index, modality in enumerate(MODALITIES if calls else ()):
            weights = torch.cat([of_call[index].double().flatten() for of_call in calls])
            mean, deviation = weights.mean(), weights.std(correction=0)
            for kind, found in (('mean', mean), ('std', deviation)):
                key = f'{modality}_{kind}'
                record[key] = shown[f'router/{key}'] = found.item()

        if iteration == 0 or iteration > runner.iter:  # else it is there, from before a resume
            self._history.append(record)
        for key, value in shown.items():
            runner.message_hub.update_scalar(f'train/{key}', value)
        for warning in self._watch.check(record) if self._watch else ():
            MMLogger.get_current_instance().warning(warning)

    def _show(self, ended: bool) -> None:
        """Draw the curve; at the end of training say what it means."""
        assert self._head is not None
        logger, path = MMLogger.get_current_instance(), self._history.path
        try:
            rows = history.read_history(path)
            if self.draw_curve:
                figure = plot.draw_bias_scale_curve(rows)
                save_figure(figure, path.with_name(plot.FILE_NAME))
        except Exception as error:  # must not cost the checkpoint that is being written
            logger.warning(f"the curve of '{path}' could not be drawn: {error!r}")
            return
        if ended and self._watch is not None and len(rows):
            steps = self._optimizer
            settings = (steps.accumulated, steps.is_like_adam) if steps else ()
            names = self._head.generator.scale_names()
            lines = [read_ending(rows, name, *settings) for name in names]
            logger.info('\n  '.join(['Bias scale at the end:', *lines]))
