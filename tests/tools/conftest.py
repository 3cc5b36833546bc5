"""Runs the command line tools."""

import sys
from collections.abc import Callable

import pytest

from .tool_modules import load_tool


@pytest.fixture
def call_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., tuple[int, str]]:
    """Runs a tool in this process, which saves its imports; its exit status, and what it says."""

    def call(name: str, *arguments: object) -> tuple[int, str]:
        module = load_tool(name)
        monkeypatch.setenv('LOCAL_RANK', '0')
        monkeypatch.setattr(sys, 'argv', [f'tools/{name}.py', *map(str, arguments)])
        status = 0
        try:
            module.run_tool(module.main)
        except SystemExit as stop:
            status = stop.code
        return status, ''.join(capsys.readouterr())

    return call
