"""The wheel of `pip install .`: code, package data and all configs."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built in a copy so that no leftovers land in the checkout."""
    copy = tmp_path_factory.mktemp('checkout')
    ignored = shutil.ignore_patterns('__pycache__', '*.egg-info', '.mim')
    for name in ('projects', 'configs', 'requirements'):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, copy / name)
    options = ['--no-deps', '--no-build-isolation', '--no-index', '--wheel-dir', 'dist']
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '.', *options],
        cwd=copy,
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    (path,) = (copy / 'dist').glob('cmt_bias-*.whl')
    return zipfile.ZipFile(path)


def files_below(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob('*')
        if path.is_file() and path.suffix != '.pyc' and '.mim' not in path.parts
    }


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    packaged = {name for name in wheel.namelist() if name.startswith('cmt_bias/')}
    expected = {f'cmt_bias/{name}' for name in files_below(ROOT / 'projects' / 'cmt_bias')}
    assert expected - packaged == set()


def test_every_config_is_in_the_wheel_with_the_text_of_the_checkout(wheel):
    prefix = 'cmt_bias/.mim/configs/'
    packaged = {n.removeprefix(prefix) for n in wheel.namelist() if n.startswith(prefix)}
    expected = files_below(ROOT / 'configs')
    assert packaged == expected
    assert expected
    for name in expected:
        assert wheel.read(prefix + name) == (ROOT / 'configs' / name).read_bytes()


def test_the_licence_is_named_and_in_the_wheel(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith('LICENSE')]
    assert wheel.read(name) == (ROOT / 'LICENSE').read_bytes()
    (name,) = [name for name in wheel.namelist() if name.endswith('.dist-info/METADATA')]
    assert re.search(r'^License.*: Apache-2.0$', wheel.read(name).decode(), re.MULTILINE)


def test_mmcv_and_torch_are_not_required_by_the_wheel(wheel):
    """pip would build mmcv without its operators; the stack comes from `requirements/`."""
    (name,) = [name for name in wheel.namelist() if name.endswith('.dist-info/METADATA')]
    lines = wheel.read(name).decode().splitlines()
    required = [
        line.removeprefix('Requires-Dist: ')
        for line in lines
        if line.startswith('Requires-Dist: ') and 'extra ==' not in line
    ]
    assert 'numpy<2' in required
    assert not any(requirement.startswith(('mm', 'torch', 'spconv')) for requirement in required)


def test_the_oldest_devkit_that_is_allowed_finds_the_shapely_that_it_needs():
    """nuscenes-devkit 1.1.11 requires Shapely<2."""
    lines = (ROOT / 'requirements' / 'runtime.txt').read_text().splitlines()
    required = [Requirement(text) for line in lines if (text := line.split('#')[0].strip())]
    allowed = {one.name.lower(): one.specifier for one in required}
    assert allowed['nuscenes-devkit'].contains('1.1.11')
    assert allowed['shapely'].contains('1.8.5')
