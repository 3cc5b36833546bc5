"""Where numbers that are none begin: in the inputs, a parameter, a module, or on the way back."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmdet3d.structures import BaseInstance3DBoxes, BasePoints
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn


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
    bad = find_non_finite(batch)
    if bad:
        return f"The input '{bad}' is not finite{_sample(batch, bad)}."
    walk = _ForwardWalk(model)
    losses = None
    try:
        with walk, torch.set_grad_enabled(model.training):
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
    rest = (name for name, tensor in model.named_parameters() if not is_finite(tensor))
    if name := next(rest, None):
        return f"The parameter '{name}' is not finite."
    if walk.first_output:
        return f"Inputs and parameters are finite, but what '{walk.first_output}' makes of them."
    return _first_gradient(model, losses, walk.parameters)


def _first_gradient(model: BaseModel, losses: Any, in_forward_order: list[str]) -> str:
    """The parameter nearest to the loss whose gradient is not finite."""
    if not model.training or not isinstance(losses, Mapping):
        return ''
    model.zero_grad()
    with torch.enable_grad():
        model.parse_losses(losses)[0].backward()
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not is_finite(parameter.grad)
    ]
    if not bad:
        return ''
    place = {name: index for index, name in enumerate(in_forward_order)}
    nearest = max(bad, key=lambda name: place.get(name, -1))
    return f"Losses are finite, but not the gradient of the parameter '{nearest}'."


class _ForwardWalk:
    """Follows one forward pass: stops at a bad parameter, notes the first bad output.

    Attributes:
        parameters: Names of the parameters in the order of the pass.
        first_output: Name of the first module whose outputs have NaN; empty if none has.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters: list[str] = []
        self.first_output = ''
        self._names = {id(module): name for name, module in model.named_modules()}
        self._model = model
        self._handles: list[Any] = []

    def __enter__(self) -> '_ForwardWalk':
        for module in self._model.modules():
            self._handles += [
                module.register_forward_pre_hook(self._before),
                module.register_forward_hook(self._after),
            ]
        return self

    def __exit__(self, *args: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: Any) -> None:
        owner = self._names[id(module)]
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f'{owner}.{name}'.lstrip('.')
            self.parameters.append(full_name)
            if not is_finite(parameter):
                raise _Found(full_name)

    def _after(self, module: nn.Module, args: Any, outputs: Any) -> None:
        # Infinity may be meant: a mask is made of it.
        if not self.first_output and find_non_finite(outputs, only_nan=True):
            self.first_output = self._names[id(module)] or 'the model'


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor of any shape are."""
    return bool(torch.isfinite(tensor).all())


def find_non_finite(value: Any, only_nan: bool = False) -> str:
    """Name the first tensor in nested data that is not finite.

    Args:
        value: Tensors of any shape, arrays, boxes, points and numbers, in dicts, lists and
            mmengine's data elements.
        only_nan: Let infinity pass.

    Returns:
        The way to it, such as 'inputs.points[1]'; empty if all is finite.
    """
    for name, tensor in _named_arrays(value, ''):
        if tensor.is_floating_point() or tensor.is_complex():
            bad = torch.isnan(tensor) if only_nan else ~torch.isfinite(tensor)
            if bad.any():
                return name or 'the tensor'
    return ''


def _named_arrays(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (BaseInstance3DBoxes, BasePoints)):
        yield name, value.tensor
    elif isinstance(value, np.ndarray) and value.dtype.kind in 'fc':
        yield name, torch.from_numpy(np.ascontiguousarray(value))
    elif isinstance(value, float):
        yield name, torch.tensor(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _named_arrays(inner, f'{name}.{key}'.lstrip('.'))
    elif isinstance(value, BaseDataElement):
        for key, inner in value.all_items():
            yield from _named_arrays(inner, f'{name}.{key}'.lstrip('.'))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _named_arrays(inner, f'{name}[{index}]')


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
