"""How a tool ends at what its user can mend, and where several processes are started."""

import errno
import logging
import os

import pytest
from mmengine.logging import MMLogger

from cmt_bias.checkpoints.safe_loading import CheckpointError
from cmt_bias.datasets.nuscenes_dataset import BadFrameError
from cmt_bias.problem import Problem
from cmt_bias.runs.preflight import (
    EXIT_STATUS,
    ProblemsFound,
    is_main_process,
    run_tool,
    stop_on,
)


def raising(error: Exception):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (ProblemsFound([Problem('what', 'do this')]), 'what\n  remedy: do this'),
        (CheckpointError('a damaged checkpoint'), 'a damaged checkpoint'),
        (BadFrameError('a bad frame'), 'a bad frame'),
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), '/work'),
            "'/work': Read-only file system\n  remedy: name a folder that can be written to",
        ),
        (
            PermissionError(errno.EACCES, 'Permission denied', '/root'),
            "'/root': Permission denied",
        ),
        (OSError(errno.ENOSPC, 'No space left on device', '/d'), 'free some space'),
    ],
)
def test_what_the_user_can_mend_ends_with_a_sentence_and_no_stack_trace(error, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run_tool(raising(error))
    assert stop.value.code == EXIT_STATUS
    shown = capsys.readouterr().err
    assert message in shown
    assert 'Traceback' not in shown


@pytest.mark.parametrize('error', [ValueError('ours'), OSError(errno.EIO, 'Input/output error')])
def test_an_error_of_the_program_is_left_as_it_is(error):
    with pytest.raises(type(error)):
        run_tool(raising(error))


def test_warnings_are_logged_and_errors_stop():
    warning, error = Problem('odd', 'look', 'warning'), Problem('wrong', 'mend')
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        stop_on([])
        stop_on([warning])
    finally:
        logger.removeHandler(handler)
    assert lines == ['odd\n  remedy: look']
    with pytest.raises(ProblemsFound) as stop:
        stop_on([warning, error])
    assert stop.value.problems == (error,)


@pytest.mark.parametrize('variable', ['RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'])
def test_the_first_process_of_every_launcher_looks_for_problems(variable, monkeypatch):
    assert is_main_process()
    monkeypatch.setenv(variable, '0')
    assert is_main_process()
    monkeypatch.setenv(variable, '3')
    assert not is_main_process()
