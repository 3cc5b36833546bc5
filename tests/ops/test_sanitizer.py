"""The compiled loop under the address sanitizer: no input makes it read outside of its tensors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cmt_bias.ops import cpu

SOURCE = Path(cpu.__file__).with_name('cpu_kernel.cpp')
# Replaces the library by one under the sanitizer, then runs cases of all kinds.
SCRIPT = """
import ctypes, sys
import torch
from cmt_bias.ops import TokenLayout, Window, cpu
from ops_tests.cases import random_case
from ops_tests.test_layouts import laid_out

library = ctypes.CDLL(sys.argv[1])
cpu.load_kernel = lambda: library
torch.set_num_threads(2)
far = torch.tensor([-(2**31), -1, 3, 100, 2**31 - 1], dtype=torch.int64)
for seed in range(24):
    generator = torch.Generator().manual_seed(seed)
    layout = TokenLayout((5, 6) if seed % 3 else None, 2, (3, 4))
    shapes = Window(seed % 4, 1.0 if seed % 2 else None), Window(2 * seed)
    case = random_case(
        seed, layout, shapes, heads=3, channels=(5, 16, 32, 64)[seed % 4],
        strength_size=(None, 2.0, -30.0)[seed % 3],
    ).to((torch.float32, torch.float64, torch.bfloat16, torch.float16)[seed // 2 % 4])
    if seed % 5 == 0:
        some = torch.randint(0, 5, case.windows.cells.shape, generator=generator)
        case.windows.cells[:] = far[some]
    elif seed % 5 == 1:
        for name in ('query', 'key', 'value', 'grad'):
            tensor = laid_out(getattr(case, name), [0, 3, 1, 2], (1, 2, 1, 2), 0)
            object.__setattr__(case, name, tensor)
    elif seed % 5 == 2:
        object.__setattr__(case, 'key', case.key[:, :, :1].expand_as(case.key))
    case.run('cpu')
print('24 cases')
"""


@pytest.mark.cpu_backend
def test_no_access_outside_of_tensors(tmp_path, compile_library):
    compiler = shutil.which('g++')
    if compiler is None:
        pytest.skip('there is no g++')
    options = '-std=c++17', '-O1', '-g', '-fopenmp', '-fsanitize=address'
    library = compile_library(SOURCE, *options)
    sanitizer = subprocess.run(
        [compiler, '-print-file-name=libasan.so'], check=True, capture_output=True, text=True
    ).stdout.strip()
    (tmp_path / 'ops_tests').symlink_to(Path(__file__).parent, target_is_directory=True)
    paths = [str(tmp_path), *filter(None, sys.path)]
    environment = dict(
        os.environ,
        LD_PRELOAD=sanitizer,
        ASAN_OPTIONS='detect_leaks=0',
        PYTHONPATH=os.pathsep.join(paths),
    )
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(library)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert '24 cases' in done.stdout
