"""Checks of the environment: what needs no broken environment. For those see tests/tools."""

import importlib.metadata
from types import SimpleNamespace

import pytest

from cmt_bias.ops import cpu
from cmt_bias.problem import Problem
from cmt_bias.runs import environment_check
from cmt_bias.runs.environment_check import (
    Answer,
    ask,
    check_cpu_kernel,
    check_environment,
    check_setuptools,
    check_spconv,
    check_version,
)


@pytest.mark.parametrize(
    ('name', 'version', 'works'),
    [
        ('mmcv', '2.1.0', True),
        ('mmcv', '2.0.0rc4', True),
        ('mmcv', '2.1', True),
        ('mmcv', '2.2.0', False),
        ('mmcv', '1.7.2', False),
        ('numpy', '1.26.4', True),
        ('numpy', '2.0.0', False),
        ('mmdet', '3.3.0', True),
        ('mmdet', '3.4.0', False),
        ('torch', '2.13.0+cu126', True),
        ('torch', '2.14.1+cu130', True),
        ('torch', '2.15.0', False),
        ('torch', '1.13.1', False),
    ],
)
def test_versions_that_work(name, version, works, monkeypatch):
    monkeypatch.setattr(importlib.metadata, 'version', lambda package: version)
    answer = check_version(name)
    assert answer == version if works else f'{version}, but' in answer.what


def test_whatever_a_check_raises_becomes_an_error_with_its_remedy():
    def check() -> Answer:
        raise ImportError('libGL.so.1: cannot open\n shared object file')

    what = 'ImportError: libGL.so.1: cannot open shared object file'
    assert ask(check, 'install libgl1') == Problem(what, 'install libgl1', 'error')


@pytest.mark.parametrize(
    ('version', 'what'),
    [('82.0.1', '82.0.1: no pkg_resources'), ('100.1', '100.1: no pkg_resources')],
)
def test_a_setuptools_that_cannot_build_mmcv_is_no_error(version, what, monkeypatch):
    def version_of(name: str) -> str:
        return version if name == 'setuptools' else installed(name)

    installed = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, 'version', version_of)
    answer = dict(check_environment())['setuptools']
    assert (answer.what, answer.severity) == (what, 'warning')
    assert "`pip install 'setuptools<82'`" in answer.remedy


@pytest.mark.parametrize(
    ('python', 'what', 'severity'),
    [
        ((3, 11, 9), 'not installed; only building mmcv needs it', 'note'),
        (
            (3, 12, 0),
            'not installed; mmengine imports its distutils, which Python has no more',
            'error',
        ),
    ],
)
def test_without_setuptools_mmengine_lacks_distutils_from_python_312_on(
    python, what, severity, monkeypatch
):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'version', missing)
    monkeypatch.setattr(environment_check, 'sys', SimpleNamespace(version_info=python))
    answer = check_setuptools()
    assert (answer.what, answer.severity) == (what, severity)
    assert ('setuptools<82' in answer.remedy) == (severity == 'error')


def test_a_setuptools_that_can_build_mmcv_is_fine(monkeypatch):
    monkeypatch.setattr(importlib.metadata, 'version', lambda name: '81.0.0')
    assert check_setuptools() == '81.0.0'


def test_this_environment_passes_every_check():
    wrong = [row for row in check_environment() if getattr(row[1], 'severity', '') == 'error']
    assert wrong == []


def test_a_kernel_that_was_not_compiled_is_only_a_note(monkeypatch):
    monkeypatch.setattr(cpu, 'load_kernel', lambda: 'no compiler was found')
    answer = check_cpu_kernel()
    assert isinstance(answer, Problem)
    assert answer.severity == 'note'
    assert 'no compiler was found' in answer.what


def test_a_spconv_that_no_package_brought_passes_if_it_runs(monkeypatch):
    """As one built in its checkout, on PYTHONPATH."""
    monkeypatch.setattr(importlib.metadata, 'packages_distributions', dict)
    assert check_spconv().startswith('unknown version, forward runs on ')
