"""Pickles of plain data, read without running code that they bring or name.

A pickle is a program: reading it calls whatever it names. Files of plain data name little, mostly
what makes numpy's arrays. numpy's own functions trust their arguments (a dtype that lies about its
fields makes memory of anything), so inert stand-ins take their places here.
"""

import io
import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np


class PlainDtype:
    """Stands for ``numpy.dtype``: records a code, such as 'f8', and a byte order."""

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        # Numbers, booleans, text, bytes, and references to objects of the same pickle: no fields.
        if not isinstance(code, str) or not re.fullmatch('[biufcSUO][0-9]+', code):
            raise pickle.UnpicklingError(f'numpy dtype {code!r:.50} is not one of plain data')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ('<', '>', '=', '|'):
            raise pickle.UnpicklingError(f'state of a numpy dtype is {state!r:.100}')
        self.dtype = self.dtype.newbyteorder(state[1])


class PlainArray(np.ndarray):
    """Stands for ``numpy.ndarray``; is pickled as the ordinary array that it is otherwise."""

    def __new__(cls) -> 'PlainArray':
        """An empty one, to be filled by :meth:`__setstate__`."""
        return super().__new__(cls, (0,), np.int8)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or type(state[2]) is not PlainDtype:
            raise pickle.UnpicklingError(f'state of a numpy array is {state!r:.100}')
        _, shape, plain, is_fortran, content = state
        super().__setstate__((1, shape, plain.dtype, is_fortran, content))

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()


def _begin_array(subtype: object, shape: object, type_code: object) -> PlainArray:
    """Stands for numpy's ``_reconstruct``, which begins an array that a state will fill."""
    if subtype is not PlainArray:
        raise pickle.UnpicklingError(f'numpy arrays of class {subtype!r:.100} are not plain data')
    return PlainArray()


def _array_of_buffer(
    content: bytes | bytearray, dtype: object, shape: Any, order: Literal['C', 'F'] = 'C'
) -> np.ndarray:
    """Stands for numpy's ``_frombuffer``, which pickles of protocol 5 call."""
    return np.frombuffer(content, _real_dtype(dtype)).reshape(shape, order=order).copy(order)


def _scalar(dtype: object, content: bytes = b'') -> Any:
    """Stands for numpy's ``scalar``, which makes a number or text of numpy's own types."""
    real = _real_dtype(dtype)
    # frombuffer does not read an empty text
    return np.frombuffer(content, real)[0] if real.itemsize else real.type()


def _real_dtype(dtype: object) -> np.dtype:
    if type(dtype) is not PlainDtype or dtype.dtype.kind == 'O':
        raise pickle.UnpicklingError(f'numpy data of dtype {dtype!r:.50} is not plain')
    return dtype.dtype


def _encode(text: str, encoding: str) -> bytes:
    """Stands for ``_codecs.encode``, by which old protocols write bytes as text."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'bytes that are encoded as {encoding!r:.20}')
    return text.encode('latin1')


NUMPY_STAND_INS: dict[str, Callable] = {'numpy.dtype': PlainDtype, 'numpy.ndarray': PlainArray}
"""What unpickling numpy's data calls -> what it is to call instead."""

for _core in ('numpy.core', 'numpy._core'):  # numpy 1 and numpy 2
    NUMPY_STAND_INS[f'{_core}.multiarray._reconstruct'] = _begin_array
    NUMPY_STAND_INS[f'{_core}.multiarray.scalar'] = _scalar
    NUMPY_STAND_INS[f'{_core}.numeric._frombuffer'] = _array_of_buffer

_ALLOWED = {**NUMPY_STAND_INS, '_codecs.encode': _encode, 'collections.OrderedDict': OrderedDict}
for _kind in (set, frozenset, bytes, bytearray, complex):
    _ALLOWED[f'builtins.{_kind.__name__}'] = _ALLOWED[f'__builtin__.{_kind.__name__}'] = _kind


class InfoFileError(RuntimeError):
    """An info or database file cannot be read; the message names it, the cause and a remedy."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full_name = f'{module}.{name}'
        if full_name not in _ALLOWED:
            raise pickle.UnpicklingError(f'it names {full_name}, which is not plain data')
        return _ALLOWED[full_name]


def load_info_file(path: str | Path) -> Any:
    """Read an info file, or a database of objects for pasting, without trusting it.

    Understands containers, numbers, texts, bytes and numpy's arrays (as a subclass) and scalars of
    them, pickled or, where the name ends with '.json', as JSON.

    Raises:
        FileNotFoundError: If there is no such file.
        InfoFileError: If it names anything else, or is damaged. Nothing of it was run.
    """
    content = Path(path).read_bytes()
    try:
        if Path(path).suffix == '.json':
            return json.loads(content)
        # From memory, where a damaged length does not ask for more than there is.
        return _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle fails in every way that there is
        raise InfoFileError(
            f"'{path}' cannot be read: {type(error).__name__}: {error}. Nothing in it was "
            'run. Remedy: make it anew with tools/create_data.py, or get it from whom you trust'
        ) from error
