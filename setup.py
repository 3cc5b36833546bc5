"""Packaging of cmt-bias: the packages `cmt_bias` and `nuscenes_synth` from projects/, with
configs/ inside the wheel.

One loop of attention on CPUs is C++ and is compiled here. It needs neither torch nor Python's
headers, so that one library serves all their versions. Where it cannot be compiled the
installation goes on without it, and says so.

`configs/` is shipped as `cmt_bias/.mim/configs`, the place where OpenMMLab packages keep theirs.
(mmengine's own `package::config` look-up knows a fixed list of packages and this one is not among
them, so the files are found through the package's folder.) An editable install gets a link there.
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE_ROOT = ROOT / 'projects'


def read_version() -> str:
    namespace: dict[str, str] = {}
    exec((PACKAGE_ROOT / 'cmt_bias' / 'version.py').read_text(encoding='utf-8'), namespace)
    return namespace['__version__']


def read_requirements(name: str) -> list[str]:
    """Requirement lines of requirements/<name>.txt, without comments, options and empty lines."""
    text = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8')
    lines = (line.split(' #')[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(('#', '-'))]


class BuildWithConfigs(build_py):
    """`build_py` that puts configs/ into the package: copied for a wheel, linked if editable."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            self._link_configs()
        else:
            target = Path(self.build_lib) / 'cmt_bias' / '.mim' / 'configs'
            shutil.rmtree(target, ignore_errors=True)
            ignored = shutil.ignore_patterns('__pycache__', '*.pyc')
            shutil.copytree(ROOT / 'configs', target, ignore=ignored)

    @staticmethod
    def _link_configs() -> None:
        link = PACKAGE_ROOT / 'cmt_bias' / '.mim' / 'configs'
        link.parent.mkdir(exist_ok=True)
        if link.is_symlink():
            link.unlink()
        link.symlink_to(os.path.relpath(ROOT / 'configs', link.parent), target_is_directory=True)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = list(super().get_outputs(include_bytecode))
        if self.editable_mode:
            return outputs
        target = Path(self.build_lib) / 'cmt_bias' / '.mim' / 'configs'
        return outputs + [str(path) for path in target.rglob('*') if path.is_file()]


KERNEL_SOURCE = 'projects/cmt_bias/ops/cpu_kernel.cpp'
# cmt_bias.ops.cpu looks for it, so that a library of another version is not used.
KERNEL_DIGEST = hashlib.sha256((ROOT / KERNEL_SOURCE).read_bytes()).hexdigest()[:16]
CPU_KERNEL = Extension(
    f'cmt_bias.ops._cpu_kernel_{KERNEL_DIGEST}',
    sources=[KERNEL_SOURCE],
    language='c++',
    # -fopenmp is not for the linker: the threads are those of the OpenMP that torch has loaded.
    # The kernel's functions that take vectors are inlined: no calling convention matters.
    extra_compile_args=['-std=c++17', '-O3', '-fopenmp', '-Wno-psabi'],
    py_limited_api=True,
    optional=True,
)


class BuildKernel(build_ext):
    """`build_ext` that says what a kernel that was not compiled means."""

    def build_extension(self, extension: Extension) -> None:
        try:
            super().build_extension(extension)
        except Exception:
            print(
                'WARNING: cmt-bias: the C++ loop of attention with a bias was not compiled. All '
                'works without it; on CPUs training takes about three times as long. Install g++ '
                '(Debian, Ubuntu: sudo apt install g++) and install cmt-bias again.',
                file=sys.stderr,
            )
            raise


setup(
    name='cmt-bias',
    version=read_version(),
    description='Cross Modal Transformer on MMDetection3D 1.4, with a learnable attention bias',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    python_requires='>=3.10,<3.13',
    package_dir={'': 'projects'},
    packages=find_packages('projects', include=['cmt_bias', 'cmt_bias.*', 'nuscenes_synth']),
    package_data={
        'cmt_bias': [
            'py.typed',
            '**/*.cpp',
            '**/*.json',
            '**/*.yaml',
            '**/*.csv',
            '**/*.npz',
            '**/*.pth',
        ],
        'nuscenes_synth': ['py.typed', '*.json'],
    },
    include_package_data=True,
    install_requires=read_requirements('runtime'),
    extras_require={
        'build': read_requirements('build'),
        'mim': read_requirements('mminstall'),
        'tests': read_requirements('tests'),
    },
    cmdclass={'build_py': BuildWithConfigs, 'build_ext': BuildKernel},
    ext_modules=[CPU_KERNEL],
    zip_safe=False,
)
