"""Compiling the loop over windows, and doing without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmt_bias.ops import window_kernel
from cmt_bias.ops.grouped_windows import GroupedWindows

PLAN = """
import torch
from cmt_bias.ops import plan_windows
print(type(plan_windows(torch.tensor([[[0, 1, -1]]]), 3)).__name__)
"""


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('CMT_BIAS_CACHE', str(tmp_path))
    monkeypatch.delenv('CMT_BIAS_WINDOW_KERNEL', raising=False)
    return tmp_path / 'kernels'


def load():
    """What a new process would get."""
    return window_kernel.load_window_kernel.__wrapped__()


def plan_in_new_process(**environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, '-c', PLAN],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_compiled_once_and_kept(fresh_cache, monkeypatch):
    assert load() is not None
    (library,) = fresh_cache.iterdir()
    written = library.stat().st_mtime_ns
    monkeypatch.setattr(window_kernel, '_compile', lambda *_: pytest.fail('compiled again'))
    assert load() is not None
    assert library.stat().st_mtime_ns == written


def test_processes_that_start_together_do_not_disturb_each_other(fresh_cache):
    processes = [plan_in_new_process() for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [out.strip() for out, _ in outputs] == ['ListedWindows'] * 2, outputs
    assert len(list(fresh_cache.iterdir())) == 1


def test_without_a_compiler_torch_operators_are_used_and_a_warning_says_so(fresh_cache):
    output, errors = plan_in_new_process(CXX='no-such-compiler').communicate(timeout=300)
    assert output.strip() == GroupedWindows.__name__
    assert 'no C++ compiler found (no-such-compiler)' in errors
    assert 'CMT_BIAS_WINDOW_KERNEL=0' in errors


def test_turned_off_without_a_warning(fresh_cache, caplog):
    output, errors = plan_in_new_process(CMT_BIAS_WINDOW_KERNEL='0').communicate(timeout=300)
    assert output.strip() == GroupedWindows.__name__
    assert 'compiled loop' not in errors


def test_failing_compiler_is_quoted(fresh_cache, tmp_path, monkeypatch, caplog):
    compiler = tmp_path / 'broken-compiler'
    compiler.write_text('#!/bin/sh\necho "cannot optimize this" >&2\nexit 3\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    assert load() is None
    assert 'cannot optimize this' in caplog.text
    assert not list(fresh_cache.iterdir())


def test_library_is_compiled_anew_for_another_source(fresh_cache, tmp_path, monkeypatch):
    assert load() is not None
    source = tmp_path / 'window_kernel.cpp'
    source.write_text(window_kernel._SOURCE.read_text() + '\n// changed\n')
    monkeypatch.setattr(window_kernel, '_SOURCE', source)
    assert load() is not None
    assert len(list(fresh_cache.iterdir())) == 2
