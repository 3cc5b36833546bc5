"""tools/setup_environment.sh where it must stop; `make test` itself begins with a whole one."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def set_up(**environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ['bash', 'tools/setup_environment.sh'],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_an_interpreter_that_does_not_run_is_refused(tmp_path):
    done = set_up(VENV=str(tmp_path / 'venv'), PYTHON='/bin/false')
    assert done.returncode == 1
    assert 'PYTHON=/bin/false does not run, is not Python 3.10-3.12' in done.stderr
    assert not (tmp_path / 'venv').exists()


def test_a_machine_without_python_is_told_what_to_install(tmp_path):
    for tool in ('bash', 'dirname', 'uname'):
        (tmp_path / tool).symlink_to(Path('/bin') / tool)
    done = set_up(VENV=str(tmp_path / 'venv'), PYTHON='', PATH=str(tmp_path))
    assert done.returncode == 1
    assert 'no usable Python found' in done.stderr
    assert 'apt install python3.11 python3.11-venv' in done.stderr
