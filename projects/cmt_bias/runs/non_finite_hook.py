"""Stop at the first number that is none, and name the sample or the parameter it came from."""

import re
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, cast

import torch
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from ..non_finite_numbers import is_finite, non_finite_numbers
from ..unwrapping import unwrapped

REMEDY = (
    'Remedy: correct the data, if it is an input (tools/doctor.py CONFIG reads them); else go on '
    'from the newest checkpoint, with a lower learning rate or gradient clipping'
)


class NonFiniteError(FloatingPointError):
    """A loss, an output or a gradient is NaN or infinite; the message says where that began."""


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Stops a run at the first loss, gradient or output of a head that is not finite.

    The gradients are looked at before the optimizer makes NaN of all parameters with them: the
    error names the input and its sample, the parameter or the module where it began, found by
    running the batch once more. Gradients that AMP's loss scale makes overflow are AMP's matter.

    In an iteration it costs one norm of the gradients.

    Raises:
        NonFiniteError: In training, from the optimizer's step or after the iteration; else from
            the forward pass.
    """

    # Before other hooks save or log what comes of it.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._hooks = ExitStack()
        self._batch: Any = None
        self._is_looking = False

    def before_run(self, runner: Runner) -> None:
        """Look at what comes out of the model and goes into the optimizers."""
        self.after_run(runner)
        self._runner = runner
        self._model = cast(BaseModel, unwrapped(runner.model))

        def keep(handle: Any) -> None:  # it may be another library's
            self._hooks.callback(handle.remove)

        keep(self._model.register_forward_hook(self._after_forward, always_call=True))
        for name, part in self._model.named_children():
            if name.endswith('head'):
                keep(part.register_forward_hook(self._after_head))
        wrapper = runner.optim_wrapper
        for single in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            if isinstance(single, OptimWrapper):
                keep(single.optimizer.register_step_pre_hook(self._before_step))

    def after_run(self, runner: Runner) -> None:
        """Leave model and optimizers alone again."""
        self._hooks.close()
        self._batch = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the batch, to find out which sample it was."""
        self._batch = data_batch

    before_val_iter = before_test_iter = before_train_iter

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look at the loss, for iterations in which no optimizer has made a step."""
        loss = (outputs or {}).get('loss')
        if isinstance(loss, torch.Tensor) and not is_finite(loss):
            self._fail('The loss')

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if getattr(optimizer, 'found_inf', None) is not None:
            return  # a fused optimizer, which leaves such a step out by itself
        parameters = [member for group in optimizer.param_groups for member in group['params']]
        gradients = [member.grad for member in parameters if member.grad is not None]
        # as torch.nn.utils.get_total_norm, which is there since torch 2.6
        norms = torch._foreach_norm(gradients, float('inf')) if gradients else []
        if norms and not is_finite(torch.stack([norm.to(norms[0].device) for norm in norms])):
            self._fail('The gradient')

    def _after_head(self, head: nn.Module, args: Any, outputs: Any) -> None:
        if not (head.training or self._is_looking) and any(non_finite_numbers(outputs)):
            self._fail('An output of the head')

    def _after_forward(self, model: nn.Module, args: Any, outputs: Any) -> None:
        """After a forward pass that has failed, say so if it was for numbers that are none."""
        error = sys.exc_info()[1]
        if error is None or isinstance(error, (NonFiniteError, torch.cuda.OutOfMemoryError)):
            return
        if outputs is None and not self._is_looking and (origin := self._origin()):
            MMLogger.get_current_instance().error(f'{origin} {REMEDY}. What failed then:')

    def _fail(self, what: str) -> None:
        is_training = self._model.training
        where = f'iteration {self._runner.iter + 1}' if is_training else 'the evaluation'
        origin = self._origin() or 'Where it began was not found by running the batch once more.'
        raise NonFiniteError(f'{what} is not finite in {where}. {origin} {REMEDY}.')

    def _origin(self) -> str:
        self._is_looking = True
        try:
            return find_origin(self._model, self._batch)
        finally:
            self._is_looking = False


def find_origin(model: BaseModel, batch: Any) -> str:
    """A sentence on where the first number that is none comes from; '' if all are finite.

    Runs a batch of the dataloader once more through a model without wrappers, and overwrites its
    gradients. Looks at the inputs, then at the parameters in the order of the forward pass, then
    at what the modules make of them, and last at the gradients in the order of the backward pass.
    """
    if bad := next(non_finite_numbers(batch), None):
        return f"The input '{bad}' is not finite{_sample(batch, bad)}."
    names = {module: name for name, module in model.named_modules()}
    met: dict[str, nn.Parameter] = {}
    bad_outputs: list[str] = []

    def before(module: nn.Module, args: Any) -> None:
        met.update(module.named_parameters(names[module], recurse=False))

    def after(module: nn.Module, args: Any, outputs: Any) -> None:
        # Infinity may be meant: a mask is made of it.
        if any(non_finite_numbers(outputs, only_nan=True)):
            bad_outputs.append(names[module] or 'the model')

    losses = None
    mode = 'loss' if model.training else 'predict'
    # The failure that is being looked into may come again.
    with ExitStack() as hooks, suppress(Exception), torch.set_grad_enabled(model.training):
        for module in names:
            hooks.enter_context(module.register_forward_pre_hook(before))
            hooks.enter_context(module.register_forward_hook(after))
        losses = model._run_forward(model.data_preprocessor(batch, model.training), mode=mode)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in {**met, **parameters}.items():
        if not is_finite(parameter):
            return f"The parameter '{name}' is not finite."
    if bad_outputs:
        return f"Inputs and parameters are finite, but what '{bad_outputs[0]}' makes of them."
    if not (model.training and isinstance(losses, Mapping)):
        return ''
    model.zero_grad()
    with torch.enable_grad():
        model.parse_losses(losses)[0].backward()
    for name, parameter in {**dict(reversed(met.items())), **parameters}.items():
        if parameter.grad is not None and not is_finite(parameter.grad):
            return f"Losses are finite, but not the gradient of the parameter '{name}'."
    return ''


def _sample(batch: Any, name: str) -> str:
    """Which sample of a batch an input belongs to: its token and file, where it has them."""
    samples = batch.get('data_samples') if isinstance(batch, Mapping) else None
    index = re.search(r'\[(\d+)\]', name)
    if not samples or index is None or int(index[1]) >= len(samples):
        return ''
    about = getattr(samples[int(index[1])], 'metainfo', {})
    keys = [key for key in ('token', 'sample_idx', 'lidar_path') if about.get(key) is not None]
    known = ', '.join(f'{key} {about[key]}' for key in keys)
    return f', of sample {index[1]} of the batch' + (f' ({known})' if known else '')
