"""Runs the command line tools."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., tuple[int, str]]:
    """Runs a tool in this process, which saves its imports; its exit status, and what it says."""

    def call(name: str, *arguments: object) -> tuple[int, str]:
        spec = importlib.util.spec_from_file_location(f'{name}_tool', ROOT / f'tools/{name}.py')
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # its dataclasses look it up
        spec.loader.exec_module(module)
        monkeypatch.setenv('LOCAL_RANK', '0')
        monkeypatch.setattr(sys, 'argv', [f'tools/{name}.py', *map(str, arguments)])
        status = 0
        try:
            module.run_tool(module.main)
        except SystemExit as stop:
            status = stop.code
        return status, ''.join(capsys.readouterr())

    return call
