"""tools/setup_environment.sh where it must stop; `make test` itself begins with a whole one."""

import os
import re
import subprocess
from pathlib import Path

import pytest

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


@pytest.mark.parametrize('home', [None, '/proc/nowhere'])
def test_without_a_home_that_can_be_written_to_the_wheel_stays_in_the_environment(tmp_path, home):
    environment = {k: v for k, v in os.environ.items() if k not in ('HOME', 'XDG_CACHE_HOME')}
    done = subprocess.run(
        ['bash', 'tools/setup_environment.sh'],
        cwd=ROOT,
        env={
            **environment,
            **({} if home is None else {'HOME': home}),
            'VENV': str(tmp_path / 'venv'),
            'PYTHON': '/bin/false',
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f'a wheel in {tmp_path}/venv/.setup/cache' in done.stdout.splitlines()[0]
    assert 'PYTHON=/bin/false does not run' in done.stderr


def pins(name: str) -> dict[str, str]:
    """Versions by package of a file of requirements."""
    text = (ROOT / 'requirements' / name).read_text()
    return dict(re.findall(r'^([\w.-]+)==([^\s;]+)', text.lower().replace('_', '-'), re.MULTILINE))


def test_every_pin_has_hashes_but_what_is_built_for_the_machine():
    hashed = pins('hashes-python311.txt')
    assert set(pins('lock-python311.txt').items()) - set(hashed.items()) == {
        ('mmcv', pins('mminstall.txt')['mmcv']),
        ('torch', pins('build.txt')['torch']),
    }
    text = (ROOT / 'requirements' / 'hashes-python311.txt').read_text()
    with_hashes = re.findall(
        r'^[\w.-]+==\S+(?: \\\n +--hash=sha256:[0-9a-f]{64})+$', text, re.MULTILINE
    )
    assert len(with_hashes) == len(hashed)
