"""Find numbers that are none in nested data, whatever holds them."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor of any shape are."""
    return bool(torch.isfinite(tensor).all())


def non_finite_numbers(data: Any, *, only_nan: bool = False) -> Iterator[str]:
    """Name the tensors in nested data that are not finite: 'inputs.points[1]'.

    Args:
        data: Tensors of any shape, arrays, mmdet3d's boxes and points, and numbers, in dicts,
            lists and mmengine's data elements, which may contain themselves.
        only_nan: Let infinity pass, and all numbers that are in no tensor: a checkpoint may have
            them beside its weights.
    """
    seen: set[int] = set()
    waiting = [('', data)]
    while waiting:
        name, value = waiting.pop()
        value = value if isinstance(value, Tensor) else getattr(value, 'tensor', value)
        if not only_nan:
            if isinstance(value, np.ndarray) and value.dtype.kind in 'fc':
                value = torch.from_numpy(np.ascontiguousarray(value))
            elif isinstance(value, float):
                value = torch.tensor(value)
        if isinstance(value, Tensor):
            is_looked_at = value.is_floating_point() or value.is_complex()
            if is_looked_at and value.layout is torch.strided and not value.is_meta:
                bad = torch.isnan(value) if only_nan else ~torch.isfinite(value)
                if bad.any():
                    yield name or 'the tensor'
        elif isinstance(value, (Mapping, BaseDataElement, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, (list, tuple)):
                inner = [(f'{name}[{index}]', item) for index, item in enumerate(value)]
            else:
                items = value.items() if isinstance(value, Mapping) else value.all_items()
                inner = [(f'{name}.{key}'.lstrip('.'), item) for key, item in items]
            waiting += inner[::-1]
