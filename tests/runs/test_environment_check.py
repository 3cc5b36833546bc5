"""Checks of the environment: what needs no broken environment. For those see tests/tools."""

import pytest

from cmt_bias.runs.environment_check import (
    VERSION_RANGES,
    CheckResult,
    check_environment,
    check_window_kernel,
    release,
    run_check,
)


@pytest.mark.parametrize(
    ('version', 'numbers'),
    [('2.13.0+cpu', (2, 13, 0)), ('2.0.0rc4', (2, 0, 0)), ('1.4', (1, 4, 0)), ('81', (81, 0, 0))],
)
def test_release_of_a_version(version, numbers):
    assert release(version) == numbers


@pytest.mark.parametrize(
    ('name', 'version', 'works'),
    [
        ('mmcv', '2.1.0', True),
        ('mmcv', '2.2.0', False),
        ('mmcv', '1.7.2', False),
        ('numpy', '1.26.4', True),
        ('numpy', '2.0.0', False),
        ('mmdet', '3.3.0', True),
        ('mmdet', '3.4.0', False),
        ('torch', '2.13.0+cu126', True),
        ('torch', '1.13.1', False),
    ],
)
def test_versions_that_work(name, version, works):
    assert VERSION_RANGES[name].contains(version) is works


def test_whatever_a_check_raises_becomes_an_error_with_its_remedy():
    def check() -> CheckResult:
        raise ImportError('libGL.so.1: cannot open\n shared object file')

    result = run_check('opencv', check, 'install libgl1')
    assert result.state == 'error'
    assert result.finding == 'ImportError: libGL.so.1: cannot open shared object file'
    assert result.remedy == 'install libgl1'


def test_this_environment_passes_every_check():
    bad = [result for result in check_environment() if result.state == 'error']
    assert bad == []


def test_missing_compiler_is_only_a_note(monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    result = check_window_kernel()
    assert result.state == 'note'
    assert 'no-such-compiler' in result.finding
