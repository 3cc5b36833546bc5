"""Where numbers that are none begin: in the inputs, a parameter, a module, or on the way back."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from ..non_finite_numbers import is_finite, non_finite_numbers


class _Found(Exception):  # noqa: N818  (ends a forward pass, no error of the program)
    """The forward pass has come to a parameter that is not finite."""


def find_origin(model: BaseModel, batch: Any) -> str:
    """Find out where the first number that is none comes from, by running a batch once more.

    Looks at the inputs, then at the parameters in the order of the forward pass, then at what the
    modules make of them, and last at the gradients in the order of the backward pass.

    Args:
        model: The model, without wrappers. Its gradients are overwritten.
        batch: What the dataloader gave.

    Returns:
        A sentence; empty if everything is finite.
    """
    if bad := next(non_finite_numbers(batch), None):
        return f"The input '{bad}' is not finite{_sample(batch, bad)}."
    names = {module: name for name, module in model.named_modules()}
    in_forward_order: list[str] = []
    bad_outputs: list[str] = []

    def before(module: nn.Module, args: Any) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            in_forward_order.append(f'{names[module]}.{name}'.lstrip('.'))
            if not is_finite(parameter):
                raise _Found(in_forward_order[-1])

    def after(module: nn.Module, args: Any, outputs: Any) -> None:
        # Infinity may be meant: a mask is made of it.
        if not bad_outputs and any(non_finite_numbers(outputs, only_nan=True)):
            bad_outputs.append(names[module] or 'the model')

    handles = [module.register_forward_pre_hook(before) for module in names]
    handles += [module.register_forward_hook(after) for module in names]
    losses = None
    try:
        with torch.set_grad_enabled(model.training):
            inputs = model.data_preprocessor(batch, model.training)
            mode = 'loss' if model.training else 'predict'
            if isinstance(inputs, Mapping):
                losses = model(**inputs, mode=mode)
            else:
                losses = model(*inputs, mode=mode)
    except _Found as found:
        return f"The parameter '{found}' is not finite."
    except Exception:  # the failure that is being looked into
        pass
    finally:
        for handle in handles:
            handle.remove()
    if name := next((n for n, tensor in model.named_parameters() if not is_finite(tensor)), None):
        return f"The parameter '{name}' is not finite."
    if bad_outputs:
        return f"Inputs and parameters are finite, but what '{bad_outputs[0]}' makes of them."
    if not (model.training and isinstance(losses, Mapping)):
        return ''
    bad_gradients = _non_finite_gradients(model, losses)
    if not bad_gradients:
        return ''
    place = {name: index for index, name in enumerate(in_forward_order)}
    nearest = max(bad_gradients, key=lambda name: place.get(name, -1))
    return f"Losses are finite, but not the gradient of the parameter '{nearest}'."


def _non_finite_gradients(model: BaseModel, losses: Mapping) -> list[str]:
    model.zero_grad()
    with torch.enable_grad():
        model.parse_losses(losses)[0].backward()
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not is_finite(parameter.grad)
    ]


def _sample(batch: Any, name: str) -> str:
    """Which sample of a batch an input belongs to: its token and file, where it has them."""
    samples = batch.get('data_samples') if isinstance(batch, Mapping) else None
    inputs = name.partition('[')[2].partition(']')[0]
    if not samples or not inputs.isdecimal() or int(inputs) >= len(samples):
        return ''
    about = getattr(samples[int(inputs)], 'metainfo', {})
    known = [
        f'{key} {about[key]}'
        for key in ('token', 'sample_idx', 'lidar_path')
        if about.get(key) is not None
    ]
    return f', of sample {inputs} of the batch' + (f' ({", ".join(known)})' if known else '')
