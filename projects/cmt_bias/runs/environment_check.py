"""Checks of the installed software, each by using it, with a remedy where it fails.

Imports nothing at module level but the standard library and the class of what it answers with, so
that ``tools/doctor.py`` can load it by path where mmcv or mmdet3d are missing or broken.
"""

import importlib
import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from cmt_bias.problem import Problem

T = TypeVar('T')
Answer = str | Problem
"""Of a check: what was found where it is fine (a version, a count), or what is wrong."""

MMCV_REMEDY = (
    'compile it against the installed torch: `make setup`, or by hand '
    "`pip install 'setuptools<82' wheel ninja 'numpy<2'` and then "
    '`MMCV_WITH_OPS=1 pip install --force-reinstall --no-deps --no-cache-dir --no-build-isolation '
    'mmcv==2.1.0` (for a GPU: with the CUDA toolkit, nvcc, at hand, and FORCE_CUDA=1)'
)
VERSIONS = {
    'torch': ('>=2.1,<2.15', 'install `torch==2.13.0` first, then all the rest: `make setup`'),
    'numpy': ('>=1.22,<2', "`pip install 'numpy<2'`: mmcv and mmdet3d are built for numpy 1"),
    'mmengine': ('>=0.10.7,<1.0', '`pip install mmengine==0.10.7`'),
    'mmcv': ('>=2.0.0rc4,<2.2.0', f'mmdet and mmdet3d refuse it; {MMCV_REMEDY}'),
    'mmdet': ('>=3.0.0,<3.4.0', '`pip install mmdet==3.3.0`'),
    'mmdet3d': ('>=1.4.0,<1.5.0', '`pip install mmdet3d==1.4.0`'),
    'nuscenes-devkit': ('>=1.1.11', '`pip install nuscenes-devkit==1.2.0`'),
}
"""Package -> versions that work, and how to get one."""


def check_environment() -> list[tuple[str, Answer]]:
    """Subject and answer of all checks, in the order in which to mend what they find."""
    gpu = 'install a torch build for this GPU: https://pytorch.org/get-started/locally'
    opencv = (
        'if a lib*.so is missing: `apt install libgl1 libglib2.0-0`, or '
        "`pip install --force-reinstall --no-deps 'opencv-python-headless<4.12'`"
    )
    spconv = (
        '`pip install spconv==2.3.8`; for a GPU `pip uninstall -y spconv cumm`, then the build of '
        'your CUDA version, such as `pip install spconv-cu126==2.3.8`'
    )
    project = '`pip install -e . --no-deps --no-build-isolation` in the checkout (`make setup`)'

    def versions(*names: str) -> list[tuple[str, Answer]]:
        return [(name, ask(partial(check_version, name), VERSIONS[name][1])) for name in names]

    return [
        ('python', check_python()),
        *versions('torch', 'numpy'),
        ('gpu', ask(check_gpu, gpu)),
        ('opencv', ask(lambda: importlib.import_module('cv2').__version__, opencv)),
        ('setuptools', ask(check_setuptools, 'install it anew: `pip install "setuptools<82"`')),
        *versions('mmengine', 'mmcv'),
        ('mmcv operators', ask(check_mmcv_operators, MMCV_REMEDY)),
        *versions('mmdet', 'mmdet3d'),
        ('spconv', ask(check_spconv, spconv)),
        *versions('nuscenes-devkit'),
        ('cmt-bias', ask(check_project, project)),
        ('CPU kernel', ask(check_cpu_kernel, 'the check of cmt-bias comes first')),
    ]


def ask(check: Callable[[], T], remedy: str) -> T | Problem:
    """What a check returns; whatever it raises becomes a problem with ``remedy``."""
    try:
        return check()
    except Exception as error:
        text = ' '.join(str(error).split()) or 'no message'
        return Problem(f'{type(error).__name__}: {text}', remedy)


def check_python() -> Answer:
    """The interpreter's version."""
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return f'{version} ({sys.executable})'
    remedy = 'use Python 3.11: `rm -rf .venv; PYTHON=python3.11 make setup`'
    return Problem(f'{version}, not 3.10-3.12', remedy)


def check_version(name: str) -> Answer:
    """Whether a package is there, in a version that works, and can be imported."""
    wanted, remedy = VERSIONS[name]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Problem('not installed', remedy)
    from packaging.specifiers import SpecifierSet

    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return Problem(f'{version}, but {wanted} is needed', remedy)
    module = 'nuscenes.eval.detection.evaluate' if name == 'nuscenes-devkit' else name
    importlib.import_module(module)
    return version


def check_gpu() -> Answer:
    """Whether a GPU that the machine has is one that torch can use."""
    import torch

    if torch.cuda.is_available():
        torch.ones(2, device='cuda').sum().item()  # fails where torch is built for other GPUs
        found = f'{torch.cuda.device_count()} x {torch.cuda.get_device_name()}'
        return f'{found}, CUDA {torch.version.cuda}'
    if shutil.which('nvidia-smi') is None:
        what = 'none: everything runs on the CPU; only the tiny recipe trains there'
        return Problem(what, severity='note')
    if torch.version.cuda is not None:
        what = f'torch is built for CUDA {torch.version.cuda}, but finds no usable GPU'
        remedy = 'run `nvidia-smi`: the driver must support this CUDA version'
        return Problem(what, remedy, 'warning')
    remedy = (
        'if the GPU is to be used: `pip install --force-reinstall torch==2.13.0 --index-url '
        'https://download.pytorch.org/whl/cu126`, then compile mmcv anew (docs/install.md)'
    )
    return Problem('nvidia-smi is there, but torch is the CPU build', remedy, 'warning')


def check_setuptools() -> Answer:
    """Whether mmcv can be built: it needs pkg_resources, gone from setuptools 82 on."""
    install = "`pip install 'setuptools<82'`"
    try:
        version = importlib.metadata.version('setuptools')
    except importlib.metadata.PackageNotFoundError:
        if sys.version_info >= (3, 12):
            what = 'not installed; mmengine imports its distutils, which Python has no more'
            return Problem(what, install)
        return Problem('not installed; only building mmcv needs it', severity='note')
    if int(version.split('.')[0]) < 82:
        return version
    return Problem(f'{version}: no pkg_resources', f'before compiling mmcv: {install}', 'warning')


def check_mmcv_operators() -> Answer:
    """Whether mmcv's compiled operators are there and compute, on the GPU too where one is."""
    import torch
    from mmcv.ops import Voxelization

    layer = Voxelization([1.0, 1.0, 1.0], [0, 0, 0, 4, 4, 4], max_num_points=2, max_voxels=4)
    devices = ['CPU', 'CUDA'] if torch.cuda.is_available() else ['CPU']
    for device in devices:
        layer(torch.full((3, 4), 0.5, device=device.lower()))
    return f'compiled, voxelization runs on {" and ".join(devices)}'


def check_spconv() -> Answer:
    """Whether a spconv is there and a sparse convolution runs, on the GPU where there is one."""
    import torch
    from spconv import pytorch as spconv

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    indices = torch.zeros((1, 4), dtype=torch.int32, device=device)
    voxel = spconv.SparseConvTensor(torch.ones((1, 1), device=device), indices, [4, 4, 4], 1)
    spconv.SubMConv3d(1, 1, 3).to(device)(voxel)
    # None where it lies on PYTHONPATH, as one built in its checkout.
    names = sorted(set(importlib.metadata.packages_distributions().get('spconv', ())))
    versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in names)
    return f'{versions or "unknown version"}, forward runs on {device}'


def check_project() -> Answer:
    """Whether this package imports and its model is registered."""
    from mmdet3d.registry import MODELS

    import cmt_bias

    if MODELS.get('CmtDetector') is None:
        raise RuntimeError('CmtDetector is not registered')
    return f'{cmt_bias.__version__}, CmtDetector is registered'


def check_cpu_kernel() -> Answer:
    """Whether the loop that makes attention with a bias fast on a CPU is there."""
    from cmt_bias.ops.cpu import load_kernel

    if isinstance(found := load_kernel(), str):
        remedy = 'install g++, then `make setup`; a GPU does without'
        return Problem(f'attention with a bias is slower on CPUs: {found}', remedy, 'note')
    return 'compiled'
