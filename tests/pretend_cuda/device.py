"""Tensors that say they lie on ``cuda:0`` and hold their data on the CPU.

All operators run on the CPU, with real numbers, so that code that depends on data takes its
course. What a GPU would not do, or not without waiting, is recorded with the line of the project
that asked for it: operators on tensors of two devices, and host syncs.

Needs ``cuda_hooks.cpp``, compiled and loaded by :func:`load_hooks` before the first ``import
torch``.
"""

import ctypes
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def load_hooks(library: Path) -> None:
    """Make torch, not yet imported, find one CUDA device."""
    assert 'torch' not in sys.modules
    torch_library = Path(find_spec('torch').origin).parent / 'lib' / 'libtorch_cpu.so'
    ctypes.CDLL(str(torch_library), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library))


if 'torch' not in sys.modules:
    load_hooks(Path(sys.argv[1]))

# isort: split
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_flatten, tree_map  # noqa: E402

_aten = torch.ops.aten
_DEVICE = torch.device('cuda:0')
_PROJECT = str(Path(__file__).parents[2] / 'projects')

# Their result's size, or the result itself, must be known on the host.
_WAITING = {
    _aten._local_scalar_dense.default: 'item',
    _aten.nonzero.default: 'nonzero',
    _aten.masked_select.default: 'masked_select',
    _aten.equal.default: 'equal',
    _aten.repeat_interleave.Tensor: 'repeat_interleave',
    _aten._unique2.default: 'unique',
    _aten.bincount.default: 'bincount',
}
_INDEXING = (
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
)
_COPYING = (_aten.copy_.default, _aten._to_copy.default)


@dataclass
class Record:
    """What has happened on the device, counted by kind and line.

    Attributes:
        syncs: Times that the host waits for the device.
        faults: What a GPU would refuse.
        current: The current device: not that of the tensors, unless it was changed.
    """

    syncs: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    current: int = 1

    def clear(self) -> None:
        """Begin anew."""
        self.syncs.clear()
        self.faults.clear()


RECORD = Record()


def _line() -> str:
    """The innermost line of the project; of anything outside this file if there is none."""
    frame, nearest = sys._getframe(1), None
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_PROJECT):
            return f'{path.removeprefix(_PROJECT + "/")}:{frame.f_lineno}'
        if nearest is None and path != __file__ and '/torch/' not in path:
            nearest = f'{path.split("site-packages/")[-1]}:{frame.f_lineno}'
        frame = frame.f_back
    return str(nearest)


def _record_sync(kind: str) -> None:
    RECORD.syncs[f'{kind} {_line()}'] += 1


class PretendTensor(Tensor):
    """A tensor on the device; ``on_cpu`` is where its numbers are."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> 'PretendTensor':
        with torch._C._DisableTorchDispatch():
            shape = torch.empty_strided(
                on_cpu.size(), on_cpu.stride(), dtype=on_cpu.dtype, device='meta'
            )
        tensor = Tensor._make_subclass(
            cls, shape, False, dispatch_device=True, device_for_backend_keys=_DEVICE
        )
        tensor.on_cpu = on_cpu
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return _DEVICE

    @property
    def is_cuda(self) -> bool:
        return True

    def __repr__(self, **kwargs: Any) -> str:
        return f'PretendTensor({self.on_cpu!r})'

    def tolist(self) -> Any:
        _record_sync('tolist')
        return self.on_cpu.tolist()

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        _record_sync('new_tensor')
        return PretendTensor(self.on_cpu.new_tensor(data, dtype=dtype))

    def cpu(self) -> Tensor:
        return self.to('cpu')


class PretendDevice(TorchDispatchMode):
    """Context in which tensors can be made on the device."""

    # operators of the project in Python, which run as on a GPU instead of on CPU tensors
    in_python: dict[Any, Callable] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in self.in_python:
            with self:
                return self.in_python[func](*args, **(kwargs or {}))
        return _run(func, args, kwargs or {})


def to_pretend(tensor: Tensor) -> Tensor:
    """A copy on the device."""
    return PretendTensor(tensor.detach().clone())


def to_cpu(value: Any) -> Any:
    """The numbers of a tensor; anything else as it is."""
    return value.on_cpu if isinstance(value, PretendTensor) else value


def move_module(module: nn.Module) -> nn.Module:
    """Put all parameters and buffers on the device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                moved = nn.Parameter(to_pretend(parameter), parameter.requires_grad)
                part._parameters[name] = moved
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = to_pretend(buffer)
    return module


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the CPU, and record what it would mean on a GPU."""
    if func is torch.ops.prim.device.default:
        return _DEVICE
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    pretended = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    device = kwargs.get('device')
    # 'meta' is where the shapes of pretended tensors are
    wanted = None if device is None else torch.device(device).type in ('cuda', 'meta')
    if not pretended and not wanted:
        return func(*args, **kwargs)
    _record(func, args, kwargs, tensors, pretended, wanted)

    inner_args, inner_kwargs = tree_map(to_cpu, (args, kwargs))
    if device is not None:
        inner_kwargs['device'] = 'cpu'
    inner_kwargs.pop('pin_memory', None)
    result = func(*inner_args, **inner_kwargs)
    is_on_device = wanted if wanted is not None else bool(pretended)
    if func is _aten.copy_.default:
        is_on_device = isinstance(args[0], PretendTensor)
    if not is_on_device:
        return result
    known = {id(tensor.on_cpu): tensor for tensor in pretended}  # results of operators in place

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else PretendTensor(value)

    return tree_map(wrap, result)


def _record(
    func: Any, args: tuple, kwargs: dict, tensors: list, pretended: list, wanted: bool | None
) -> None:
    """Record syncs and operators on two devices."""
    if func in _WAITING:
        _record_sync(_WAITING[func])
    elif func in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            _record_sync('boolean index')
        if any(not isinstance(index, PretendTensor) and index.dim() for index in indices):
            _record_sync('index on the CPU')
    elif func in _COPYING:
        source = args[0] if func is _aten._to_copy.default else args[1]
        target = wanted if func is _aten._to_copy.default else isinstance(args[0], PretendTensor)
        from_device = isinstance(source, PretendTensor)
        waits = from_device or not kwargs.get('non_blocking', len(args) > 2 and args[2])
        if target is not None and from_device != target and waits:
            _record_sync('copy to the host' if from_device else 'copy to the device')
    elif pretended:
        plain = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor)]
        foreign = [tensor for tensor in plain if tensor.dim() and tensor.numel()]
        if foreign:
            shapes = [tuple(tensor.shape) for tensor in foreign]
            RECORD.faults[f'{func} takes CPU tensors {shapes} at {_line()}'] += 1


def _made_there(make: Callable) -> Callable:
    """``torch.tensor`` or ``torch.as_tensor``, which do not dispatch."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if isinstance(data, PretendTensor):
            moved = data if make is _as_tensor else data.detach().clone()
            return moved.to(*args, **kwargs) if args or kwargs else moved
        if device is None or torch.device(device).type != 'cuda':
            return make(data, *args, device=device, **kwargs)
        _record_sync(make.__name__)
        return PretendTensor(make(data, *args, **kwargs))

    return made


_tensor, _as_tensor = torch.tensor, torch.as_tensor


def install() -> None:
    """Change what torch says of CUDA, in this process for good."""
    torch.autograd.set_multithreading_enabled(False)
    torch.tensor, torch.as_tensor = _made_there(_tensor), _made_there(_as_tensor)
    torch._C._set_only_lift_cpu_tensors(True)
    torch.cuda._lazy_init = lambda: None
    torch.cuda.current_device = lambda: RECORD.current
    torch.cuda._exchange_device = torch.cuda._maybe_exchange_device = _exchange_device
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.cuda.get_device_capability = lambda *_: (7, 0)
    torch.cuda.get_device_properties = lambda *_: SimpleNamespace(
        major=8, minor=0, multi_processor_count=2
    )
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    nn.functional.scaled_dot_product_attention = _attention


def _exchange_device(number: int) -> int:
    """Make a device the current one, none if it is negative; which it was."""
    if number < 0:
        return -1
    before, RECORD.current = RECORD.current, number
    return before


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """By its definition, for the kernels of CUDA are not there to choose from."""
    assert not dropout_p and not is_causal
    if query.is_cuda and torch.is_autocast_enabled('cuda'):
        dtype = torch.get_autocast_dtype('cuda')
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    logits = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        assert attn_mask.dtype == query.dtype, 'CUDA takes no mask of another type'
        logits = logits + attn_mask
    return logits.float().softmax(-1).to(value.dtype) @ value
