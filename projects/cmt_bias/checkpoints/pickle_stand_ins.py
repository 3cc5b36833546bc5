"""Inert stand-ins for what mmengine checkpoints hold beside tensors.

torch's restricted unpickler (`weights_only=True`) refuses every class it does not know, among them
those that mmengine puts into each checkpoint: its `HistoryBuffer` and numpy arrays and scalars.
The stand-ins here take their places in the unpickler's allow-list. They only record plain data;
nothing they do depends on code that a file brings or names. Afterwards `rebuild_recorded_objects`
checks the data and makes real objects of it, so that training can resume.
"""

import logging
import re
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer, print_log

# Numbers, booleans, fixed-width text and bytes; no objects, structures or dates.
_PLAIN_DTYPE_CODE = re.compile(r'[biufc]\d{1,2}|[US]\d{1,9}')
_BYTE_ORDERS = ('<', '>', '=', '|')


class DtypeRecord:
    """What a pickled `numpy.dtype` said: its code, such as 'f8', and its byte order."""

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        self.code = code
        self.byte_order: object = '|'

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2:
            raise UnpicklingError(f'state of a numpy.dtype is not understood: {state!r:.100}')
        self.byte_order = state[1]

    def to_numpy(self) -> np.dtype:
        """Make the dtype, or raise ValueError when it is not one of plain data."""
        code, byte_order = self.code, self.byte_order
        if not isinstance(code, str) or not _PLAIN_DTYPE_CODE.fullmatch(code):
            raise ValueError(f'numpy dtype {code!r:.50} is not one of plain data')
        if byte_order not in _BYTE_ORDERS:
            raise ValueError(f'numpy byte order {byte_order!r:.50} does not exist')
        return np.dtype(f'{byte_order}{code}')


class ArrayRecord:
    """What a pickled `numpy.ndarray` said; its class also stands for the name `numpy.ndarray`."""

    def __init__(self) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def to_numpy(self) -> np.ndarray:
        """Make the array, or raise ValueError when the record does not describe plain data."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError('state of a numpy array is not understood')
        _, shape, dtype, is_fortran, raw = self.state
        return _decode_array(dtype, raw, shape, 'F' if is_fortran else 'C')


class HistoryBufferRecord:
    """What a pickled :class:`mmengine.logging.HistoryBuffer` said."""

    def __init__(self) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def to_history_buffer(self) -> HistoryBuffer:
        """Make the buffer, or raise ValueError when its record is not one of two number lists."""
        state = self.state if isinstance(self.state, dict) else {}
        max_length = state.get('max_length')
        if type(max_length) is not int or max_length < 1:
            raise ValueError(f'max_length of a HistoryBuffer is {max_length!r:.50}')
        logs = self._numbers(state, '_log_history')
        counts = self._numbers(state, '_count_history')
        if len(logs) != len(counts):
            raise ValueError(f'a HistoryBuffer has {len(logs)} values but {len(counts)} counts')
        return HistoryBuffer(logs, counts, max_length)

    @staticmethod
    def _numbers(state: dict, key: str) -> np.ndarray:
        record = state.get(key)
        if not isinstance(record, ArrayRecord):
            raise ValueError(f'{key} of a HistoryBuffer is not an array')
        values = record.to_numpy()
        if values.ndim != 1 or values.dtype.kind not in 'biuf':
            raise ValueError(f'{key} of a HistoryBuffer is not a list of numbers')
        return values


def _decode_array(dtype: object, raw: object, shape: object, order: Any) -> np.ndarray:
    """Interpret raw bytes as an array of plain data, or raise ValueError."""
    if not isinstance(dtype, DtypeRecord) or not isinstance(raw, bytes):
        raise ValueError('a numpy array of objects is not plain data')
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f'shape of a numpy array is {shape!r:.50}')
    item_type = dtype.to_numpy()
    if item_type.itemsize == 0:  # empty texts, which frombuffer does not read
        return np.zeros(shape, item_type, order=order)
    return np.frombuffer(raw, item_type).reshape(shape, order=order).copy(order=order)


def _record_array(subtype: object, shape: object, type_code: object) -> ArrayRecord:
    """Stand in for numpy's `_reconstruct`, which begins an array that a state will fill."""
    if subtype is not ArrayRecord:
        raise UnpicklingError(f'numpy arrays of class {subtype!r:.100} are not supported')
    return ArrayRecord()


def _decode_scalar(dtype: object, raw: object = b'') -> Any:
    """Stand in for numpy's `scalar`; makes a numpy scalar of plain data."""
    try:
        return _decode_array(dtype, raw, (), 'C')[()]
    except ValueError as error:
        raise UnpicklingError(f'a numpy scalar is not understood: {error}') from error


def _name_history_buffer_method(owner: object, name: object) -> object:
    """Stand in for `builtins.getattr`, by which a HistoryBuffer refers to its own methods.

    Nothing is looked up: the name of the method is returned as it is, and any other use refused.
    """
    if owner is not HistoryBufferRecord or not isinstance(name, str):
        raise UnpicklingError(
            'Unsupported global: GLOBAL builtins.getattr was not an allowed global by default.'
        )
    return name


def _empty_bytes() -> bytes:
    """Stand in for `builtins.bytes`, which is called without arguments for the data of nothing."""
    return b''


def _plain_dict(mapping: object) -> dict:
    """Stand in for mmengine's `ConfigDict`."""
    if type(mapping) is not dict:
        raise UnpicklingError('a ConfigDict that is not made from a dict is not supported')
    return mapping


# Pairs of (stand-in, full name it stands for), as `torch.serialization.safe_globals` takes them.
STAND_INS: tuple[tuple[Callable, str], ...] = (
    (HistoryBufferRecord, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (_plain_dict, 'mmengine.config.config.ConfigDict'),
    (_name_history_buffer_method, 'builtins.getattr'),
    (_empty_bytes, 'builtins.bytes'),
    (DtypeRecord, 'numpy.dtype'),
    (ArrayRecord, 'numpy.ndarray'),
    (_record_array, 'numpy.core.multiarray._reconstruct'),
    (_record_array, 'numpy._core.multiarray._reconstruct'),
    (_decode_scalar, 'numpy.core.multiarray.scalar'),
    (_decode_scalar, 'numpy._core.multiarray.scalar'),
)
_STAND_IN_NAMES = {id(stand_in): name for stand_in, name in STAND_INS}


def rebuild_recorded_objects(checkpoint: Any, source: str) -> Any:
    """Replace the records in a loaded checkpoint by the objects they describe.

    Dicts and lists are changed in place, so that attributes like `state_dict._metadata` stay.
    An entry whose record cannot be understood is left out, with a warning that names it.

    Args:
        checkpoint: What was unpickled with `STAND_INS` allowed.
        source: Name of the file, for warnings.

    Returns:
        The checkpoint.
    """
    return _Rebuilder(source).rebuild(checkpoint, 'checkpoint')


_LEFT_OUT = object()


class _Rebuilder:
    """One walk over a checkpoint, each container and record visited once."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._rebuilt: dict[int, Any] = {}
        self._visited: list[Any] = []  # keeps them alive, so that no id is used twice

    def rebuild(self, value: Any, path: str) -> Any:
        if id(value) in _STAND_IN_NAMES:
            return self._leave_out(path, f'a reference to {_STAND_IN_NAMES[id(value)]}')
        if not isinstance(
            value, (dict, list, tuple, ArrayRecord, DtypeRecord, HistoryBufferRecord)
        ):
            return value
        if id(value) not in self._rebuilt:
            self._visited.append(value)
            self._rebuilt[id(value)] = value  # ends cycles
            self._rebuilt[id(value)] = self._rebuild_new(value, path)
        return self._rebuilt[id(value)]

    def _rebuild_new(self, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            for key in list(value):
                self._store(value, key, self.rebuild(value[key], f'{path}[{key!r:.80}]'))
            return value
        if isinstance(value, (list, tuple)):
            items = [self.rebuild(item, f'{path}[{i}]') for i, item in enumerate(value)]
            items = [None if item is _LEFT_OUT else item for item in items]
            if isinstance(value, list):
                value[:] = items
                return value
            unchanged = all(a is b for a, b in zip(items, value, strict=True))
            return value if unchanged else tuple(items)
        try:
            if isinstance(value, HistoryBufferRecord):
                return value.to_history_buffer()
            return value.to_numpy()
        except ValueError as error:
            return self._leave_out(path, str(error))

    @staticmethod
    def _store(mapping: dict, key: Any, item: Any) -> None:
        if item is _LEFT_OUT:
            del mapping[key]
        elif item is not mapping[key]:
            mapping[key] = item

    def _leave_out(self, path: str, reason: str) -> object:
        print_log(
            f'{self._source}: {path} is left out, since it is not understood: {reason}',
            logger='current',
            level=logging.WARNING,
        )
        return _LEFT_OUT
