"""Both tools that make data end with a message where they cannot write."""

import errno
import os
import sys

import pytest

from .tool_modules import load_tool


@pytest.mark.parametrize('number', [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize(
    ('tool', 'function', 'arguments', 'option'),
    [
        ('create_data', 'convert_nuscenes', ['nuscenes'], '--out-dir'),
        ('create_synthetic_nuscenes', 'generate_dataset', [], '--out'),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_told_with_the_option_for_another(
    tool, function, arguments, option, number, monkeypatch, capsys
):
    module = load_tool(tool)

    def fail(*_args: object, **_settings: object) -> None:
        raise OSError(number, os.strerror(number), '/full/samples')

    monkeypatch.setattr(module, function, fail)
    monkeypatch.setattr(sys, 'argv', [tool, *arguments, '--workers', '1'])
    assert module.main() == 2
    message = capsys.readouterr().err
    assert message.startswith(f"{tool}: '/full/samples' cannot be written to")
    assert os.strerror(number) in message and f'with {option}\n' in message
