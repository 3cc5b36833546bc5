"""Checks of the installed software, each by using it, with a remedy where it fails.

Imports nothing but the standard library at module level, and nothing of this package, so that
``tools/doctor.py`` can load it by path where mmcv or mmdet3d are missing or broken.
"""

import importlib
import importlib.metadata
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

State = Literal['ok', 'note', 'warning', 'error']

SETUP_COMMAND = 'make setup'
MMCV_REMEDY = (
    'compile it against the installed torch: `make setup`, or by hand '
    "`pip install 'setuptools<82' wheel ninja 'numpy<2'` and then "
    '`MMCV_WITH_OPS=1 pip install --force-reinstall --no-deps --no-cache-dir --no-build-isolation '
    'mmcv==2.1.0`'
)


@dataclass(frozen=True)
class CheckResult:
    """One row of the doctor's table.

    Attributes:
        subject: What was looked at.
        state: 'ok'; 'note' (worth knowing); 'warning' (some uses will fail); 'error'.
        finding: What was found: a version, a count, or what is wrong.
        remedy: What to do about it; empty where nothing is to be done.
    """

    subject: str
    state: State
    finding: str
    remedy: str = ''


@dataclass(frozen=True)
class VersionRange:
    """Versions of a distribution that work: ``at_least <= version < below``."""

    distribution: str
    at_least: str
    below: str
    remedy: str

    def contains(self, version: str) -> bool:
        """Whether a version, such as '2.13.0+cpu', lies in the range."""
        return release(self.at_least) <= release(version) < release(self.below)


def release(version: str) -> tuple[int, int, int]:
    """The first three numbers of a version: '2.0.0rc4' -> (2, 0, 0), '2.13' -> (2, 13, 0)."""
    numbers = [int(digits) for digits in re.findall(r'\d+', version.split('+')[0])[:3]]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


VERSION_RANGES = {
    'torch': VersionRange(
        'torch', '2.1', '3', 'install `torch==2.13.0` first, then all the rest: `make setup`'
    ),
    'numpy': VersionRange(
        'numpy', '1.22', '2', "`pip install 'numpy<2'`: mmcv and mmdet3d are built for numpy 1"
    ),
    'mmengine': VersionRange('mmengine', '0.10.7', '1.0', '`pip install mmengine==0.10.7`'),
    'mmcv': VersionRange('mmcv', '2.0.0', '2.2.0', f'mmdet and mmdet3d refuse it; {MMCV_REMEDY}'),
    'mmdet': VersionRange('mmdet', '3.0.0', '3.4.0', '`pip install mmdet==3.3.0`'),
    'mmdet3d': VersionRange('mmdet3d', '1.4.0', '1.5.0', '`pip install mmdet3d==1.4.0`'),
}


def run_check(subject: str, check: Callable[[], CheckResult], remedy: str) -> CheckResult:
    """The check's result; whatever it raises becomes an error row with ``remedy``."""
    try:
        return check()
    except Exception as error:
        text = ' '.join(str(error).split()) or 'no message'
        return CheckResult(subject, 'error', f'{type(error).__name__}: {text}', remedy)


def check_python() -> CheckResult:
    """The interpreter's version."""
    version = '.'.join(map(str, sys.version_info[:3]))
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        remedy = 'use Python 3.11: `rm -rf .venv; PYTHON=python3.11 make setup`'
        return CheckResult('python', 'error', f'{version}, not 3.10-3.12', remedy)
    return CheckResult('python', 'ok', f'{version} ({sys.executable})')


def check_version(name: str) -> CheckResult:
    """Whether a distribution is there, in a version that works, and can be imported."""
    wanted = VERSION_RANGES[name]
    try:
        version = importlib.metadata.version(wanted.distribution)
    except importlib.metadata.PackageNotFoundError:
        return CheckResult(name, 'error', 'not installed', wanted.remedy)
    if not wanted.contains(version):
        finding = f'{version}, but >= {wanted.at_least} and < {wanted.below} is needed'
        return CheckResult(name, 'error', finding, wanted.remedy)

    def import_it() -> CheckResult:
        importlib.import_module(name)
        return CheckResult(name, 'ok', version)

    return run_check(name, import_it, wanted.remedy)


def check_opencv() -> CheckResult:
    """Whether OpenCV can be imported: it needs system libraries that bare servers lack."""

    def import_it() -> CheckResult:
        return CheckResult('opencv', 'ok', importlib.import_module('cv2').__version__)

    remedy = (
        'if a lib*.so is missing: `apt install libgl1 libglib2.0-0`, or '
        "`pip install --force-reinstall --no-deps 'opencv-python-headless<4.12'`"
    )
    return run_check('opencv', import_it, remedy)


def check_mmcv_operators() -> CheckResult:
    """Whether mmcv's compiled operators are there and compute, on the GPU too where one is."""
    subject = 'mmcv operators'

    def voxelize() -> CheckResult:
        torch = importlib.import_module('torch')
        importlib.import_module('mmcv._ext')
        _voxelize_points(torch.device('cpu'))
        if not torch.cuda.is_available():
            return CheckResult(subject, 'ok', 'compiled, voxelization runs on CPU')
        try:
            _voxelize_points(torch.device('cuda'))
        except Exception as error:
            finding = f'compiled without CUDA, although torch sees a GPU ({error})'
            remedy = 'with the CUDA toolkit (nvcc) at hand: FORCE_CUDA=1 and ' + MMCV_REMEDY
            return CheckResult(subject, 'error', finding, remedy)
        return CheckResult(subject, 'ok', 'compiled, voxelization runs on CPU and GPU')

    return run_check(subject, voxelize, MMCV_REMEDY)


def _voxelize_points(device: Any) -> None:
    """Voxelize three equal points on ``device``; raises unless that gives one voxel."""
    torch = importlib.import_module('torch')
    voxelization = importlib.import_module('mmcv.ops').Voxelization
    layer = voxelization([1.0, 1.0, 1.0], [0, 0, 0, 4, 4, 4], max_num_points=2, max_voxels=4)
    voxels = layer(torch.full((3, 4), 0.5, device=device))[0]
    if len(voxels) != 1:
        raise RuntimeError(f'three equal points gave {len(voxels)} voxels instead of 1')


def check_spconv() -> CheckResult:
    """Whether a spconv is there and a sparse convolution runs, on the GPU where there is one."""

    def convolve() -> CheckResult:
        torch = importlib.import_module('torch')
        names = _installed_spconv()
        device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        if device.type == 'cuda' and names == ['spconv']:
            finding = 'the CPU build, although torch sees a GPU'
            remedy = (
                '`pip uninstall -y spconv cumm`, then the build of your CUDA version, such as '
                '`pip install spconv-cu126==2.3.8`'
            )
            return CheckResult('spconv', 'error', finding, remedy)
        _run_sparse_convolution(importlib.import_module('spconv.pytorch'), torch, device)
        versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in names)
        return CheckResult('spconv', 'ok', f'{versions}, forward runs on {device.type}')

    return run_check('spconv', convolve, '`pip install spconv==2.3.8` (GPU: spconv-cu126==2.3.8)')


def _installed_spconv() -> list[str]:
    names = {str(found.metadata['Name']).lower() for found in importlib.metadata.distributions()}
    return sorted(name for name in names if re.fullmatch(r'spconv(-cu\d+)?', name))


def _run_sparse_convolution(spconv: ModuleType, torch: ModuleType, device: Any) -> None:
    """A 3x3x3 convolution of one voxel with weights 1 must return the voxel's value."""
    layer = spconv.SubMConv3d(1, 1, 3, bias=False).to(device)
    torch.nn.init.ones_(layer.weight)
    features = torch.full((1, 1), 3.0, device=device)
    indices = torch.zeros((1, 4), dtype=torch.int32, device=device)
    with torch.no_grad():
        output = layer(spconv.SparseConvTensor(features, indices, [4, 4, 4], 1)).features
    if abs(output.item() - 3.0) > 1e-5:
        raise RuntimeError(f'a convolution with weight 1 turned 3.0 into {output.item()}')


def check_gpu() -> CheckResult:
    """Whether a GPU that the machine has is one that torch can use."""

    def look() -> CheckResult:
        torch = importlib.import_module('torch')
        if not torch.cuda.is_available():
            return _without_usable_gpu(torch)
        major, minor = torch.cuda.get_device_capability()
        finding = f'{torch.cuda.device_count()} x {torch.cuda.get_device_name()}'
        architectures = torch.cuda.get_arch_list()
        if not any(int(arch.rstrip('af')[3:-1]) == major for arch in architectures):
            return CheckResult(
                'gpu',
                'error',
                f'{finding}: torch has no code for sm_{major}{minor} (only {architectures})',
                'install a torch build for this GPU: https://pytorch.org/get-started/locally',
            )
        return CheckResult('gpu', 'ok', f'{finding}, CUDA {torch.version.cuda}')

    return run_check('gpu', look, VERSION_RANGES['torch'].remedy)


def _without_usable_gpu(torch: ModuleType) -> CheckResult:
    if shutil.which('nvidia-smi') is None:
        finding = 'none: everything runs on the CPU; only the tiny recipe trains there'
        return CheckResult('gpu', 'note', finding)
    if torch.version.cuda is None:
        finding = 'nvidia-smi is there, but torch is the CPU build'
        remedy = (
            'if the GPU is to be used: `pip install --force-reinstall torch==2.13.0 '
            '--index-url https://download.pytorch.org/whl/cu126`, then compile mmcv anew '
            '(docs/install.md)'
        )
    else:
        finding = f'torch is built for CUDA {torch.version.cuda}, but finds no usable GPU'
        remedy = 'run `nvidia-smi`: the driver must support this CUDA version'
    return CheckResult('gpu', 'warning', finding, remedy)


def check_devkit() -> CheckResult:
    """Whether the official nuScenes evaluation can be imported."""

    def import_it() -> CheckResult:
        importlib.import_module('nuscenes.eval.detection.evaluate')
        return CheckResult('nuscenes-devkit', 'ok', importlib.metadata.version('nuscenes-devkit'))

    return run_check('nuscenes-devkit', import_it, '`pip install nuscenes-devkit==1.1.11`')


def check_setuptools() -> CheckResult:
    """Setuptools 82 and later lack pkg_resources, which building mmcv needs (running does not)."""
    try:
        version = importlib.metadata.version('setuptools')
    except importlib.metadata.PackageNotFoundError:
        return CheckResult('setuptools', 'note', 'not installed; only building mmcv needs it')
    if release(version) >= (82, 0, 0):
        remedy = "before compiling mmcv: `pip install 'setuptools<82'`"
        return CheckResult('setuptools', 'warning', f'{version}: no pkg_resources', remedy)
    return CheckResult('setuptools', 'ok', version)


def check_project() -> CheckResult:
    """Whether this package imports and its model is registered."""

    def import_it() -> CheckResult:
        version = importlib.import_module('cmt_bias.version').__version__
        registry = importlib.import_module('mmdet3d.registry').MODELS
        if registry.get('CmtDetector') is None:
            raise RuntimeError('CmtDetector is not registered')
        return CheckResult('cmt-bias', 'ok', f'{version}, CmtDetector is registered')

    remedy = '`pip install -e . --no-deps --no-build-isolation` in the checkout (`make setup`)'
    return run_check('cmt-bias', import_it, remedy)


def check_cpu_kernel() -> CheckResult:
    """Whether the loop that makes attention with a bias fast on a CPU is there."""
    subject = 'CPU kernel'

    def load_it() -> CheckResult:
        found = importlib.import_module('cmt_bias.ops.cpu').load_kernel()
        if isinstance(found, str):
            remedy = 'install g++, then `make setup`; a GPU does without'
            finding = f'attention with a bias is slower on CPUs: {found}'
            return CheckResult(subject, 'note', finding, remedy)
        return CheckResult(subject, 'ok', 'compiled')

    return run_check(subject, load_it, 'the check of cmt-bias comes first')


def check_environment() -> list[CheckResult]:
    """All checks of the environment, in the order in which to mend what they find."""
    results = [check_python()]
    results += [check_version(name) for name in ('torch', 'numpy')]
    results += [check_gpu(), check_opencv(), check_setuptools()]
    results += [check_version(name) for name in ('mmengine', 'mmcv')]
    results.append(check_mmcv_operators())
    results += [check_version(name) for name in ('mmdet', 'mmdet3d')]
    results += [check_spconv(), check_devkit(), check_project(), check_cpu_kernel()]
    return results
