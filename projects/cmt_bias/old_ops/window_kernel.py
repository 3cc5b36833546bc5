"""The compiled loop over windows: ``window_kernel.cpp``, compiled on first use and kept.

Where it cannot be compiled, attention to windows runs on torch's operators; a warning says why.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from torch import Tensor

_logger = logging.getLogger(__name__)
_SOURCE = Path(__file__).with_suffix('.cpp')
_COMPILERS = ('g++', 'clang++', 'c++')
_COMPILE = (
    *('-std=c++17', '-O3', '-march=native', '-fopenmp', '-fPIC'),
    # vector instructions without a check of each result; NaN and infinity stay what they are
    *('-fno-math-errno', '-fno-trapping-math'),
)
_SECONDS_TO_COMPILE = 120
_DISABLE = 'CMT_BIAS_WINDOW_KERNEL'


class Problem(ctypes.Structure):
    """Mirror of the struct in ``window_kernel.cpp``."""

    _fields_ = (
        ('num_queries', ctypes.c_int64),
        ('num_heads', ctypes.c_int64),
        ('channels', ctypes.c_int64),
        ('num_threads', ctypes.c_int64),
        ('key_rows', ctypes.c_void_p),
        ('offsets', ctypes.c_void_p),
        ('order', ctypes.c_void_p),
        ('num_runs', ctypes.c_int64),
        ('run_queries', ctypes.c_void_p),
        ('run_begins', ctypes.c_void_p),
        ('run_ends', ctypes.c_void_p),
        ('num_parts', ctypes.c_int64),
        ('part_bounds', ctypes.c_void_p),
        ('query', ctypes.c_void_p),
        ('key', ctypes.c_void_p),
        ('value', ctypes.c_void_p),
        ('key_stride', ctypes.c_int64),
        ('value_stride', ctypes.c_int64),
        ('scale', ctypes.c_double),
    )


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's numbers lie; the caller keeps it alive and knows its layout."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


@cache
def load_window_kernel() -> ctypes.CDLL | None:
    """The library; None, with a warning the first time, if it cannot be had.

    The environment variable ``CMT_BIAS_WINDOW_KERNEL=0`` turns it off without a warning.
    """
    if os.environ.get(_DISABLE) == '0':
        return None
    found = compile_window_kernel()
    if isinstance(found, ctypes.CDLL):
        return found
    _logger.warning(
        'Attention to windows runs on torch operators, several times slower than the compiled '
        'loop: %s. Install g++ (or set CXX), or silence this with %s=0.',
        found,
        _DISABLE,
    )
    return None


def compile_window_kernel() -> ctypes.CDLL | str:
    """The library, compiled if it is not there yet, or why it cannot be had."""
    try:
        compiler = _find_compiler()
        path = _cache_folder() / f'window_kernel-{_digest(compiler)}.so'
        if not path.exists():
            _compile(compiler, path)
        library = ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        return f'{" ".join(error.cmd)} failed: {error.stderr.strip()[-500:]}'
    except (OSError, subprocess.TimeoutExpired, _NoCompilerError) as error:
        return str(error)
    library.count_repeated.restype = ctypes.c_int64
    return library


class _NoCompilerError(Exception):
    """No C++ compiler was found."""


def _find_compiler() -> str:
    wanted = os.environ.get('CXX')
    for name in (wanted,) if wanted else _COMPILERS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise _NoCompilerError(f'no C++ compiler found ({wanted or ", ".join(_COMPILERS)})')


def _cache_folder() -> Path:
    """Where compiled libraries are kept: beside the compiled wheels of the set-up."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    folder = Path(os.environ.get('CMT_BIAS_CACHE') or Path(base) / 'cmt-bias') / 'kernels'
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(compiler: str) -> str:
    """Names what the library depends on: the source, how it is compiled, and this processor."""
    digest = hashlib.sha256(_SOURCE.read_bytes())
    digest.update(' '.join((compiler, *_COMPILE, platform.platform())).encode())
    processor = Path('/proc/cpuinfo')
    if processor.exists():
        first = processor.read_text().split('\n\n')[0].splitlines()
        kept = ('model name', 'flags', 'Features')
        digest.update('\n'.join(line for line in first if line.startswith(kept)).encode())
    return digest.hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    """Compile to a file of our own, then rename: other processes may do the same."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects, library = Path(folder) / 'kernel.o', Path(folder) / path.name
        _run(compiler, *_COMPILE, '-c', str(_SOURCE), '-o', str(objects))
        # without -fopenmp: the threads are to be those of the OpenMP that torch has loaded
        _run(compiler, '-shared', str(objects), '-o', str(library))
        library.replace(path)


def _run(*command: str) -> None:
    subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=_SECONDS_TO_COMPILE
    )
