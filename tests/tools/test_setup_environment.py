"""tools/setup_environment.sh where it must stop; `make test` itself begins with a whole one."""

import os
import re
import shlex
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


def stand_in(path: Path, script: str) -> Path:
    """A program in place of another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/bash\n{script}\n')
    path.chmod(0o755)
    return path


def test_a_torch_that_was_chosen_keeps_its_pins_at_the_next_plain_call(tmp_path):
    """Of Python 3.11: everything that it is asked for succeeds, and is noted with its pins."""
    log = tmp_path / 'log'
    note = f'echo "$PIP_CONSTRAINT $*" >>{shlex.quote(str(log))}'
    python = stand_in(tmp_path / 'venv' / 'bin' / 'python', note)
    environment = dict(VENV=str(python.parents[1]), CMT_BIAS_CACHE=str(tmp_path), TORCH='')
    done = set_up(**{**environment, 'TORCH': 'torch==2.1.2'})
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'requirements/constraints.txt -m pip install torch==2.1.2\n' in log.read_text()
    log.unlink()
    done = set_up(**environment)
    assert (done.returncode, done.stdout) == (0, '')  # all is there
    assert 'pip install' not in log.read_text()
    assert 'lock-python311' not in log.read_text()


@pytest.fixture
def mmcv_steps(tmp_path):
    """A function: sets up with a torch, and returns what the compiled mmcv needed."""
    log = tmp_path / 'log'
    python = stand_in(
        tmp_path / 'venv' / 'bin' / 'python',
        f"""
        cd {shlex.quote(str(tmp_path))}; echo "$*" >>log
        case "$*" in
            *'pip download'*)
                mkdir -p mmcv-2.1.0; echo "'-std=c++17'" >mmcv-2.1.0/setup.py
                while [ "$1" != -d ]; do shift; done; tar -cf "$2/mmcv-2.1.0.tar.gz" mmcv-2.1.0 ;;
            *'pip wheel'*)
                cat "${{@: -1}}/setup.py" >>log 2>/dev/null
                while [ "$1" != -w ]; do shift; done; touch "$2/mmcv-2.1.0-any.whl" ;;
            *'pip install torch=='*) echo "${{@: -1}}" >torch ;;
            *'pip install'*/mmcv-2.1.0-any.whl) touch mmcv ;;
            *get_path*) touch Python.h; pwd ;;
            *'< "2.14"'*) [ "$(cat torch)" = torch==2.14.1 ] ;;
            '- 2.1.0 0') [ -f mmcv ] ;;  # whether its operators work
            '- '*' 0') cat >/dev/null; echo "$2/wheels/$(cat torch)" ;;
        esac""",
    )
    environment = dict(VENV=str(python.parents[1]), CMT_BIAS_CACHE=str(tmp_path), FORCE_CUDA='0')

    def run(torch: str) -> list[str]:
        log.write_text('')
        done = set_up(**environment, TORCH=torch)
        assert done.returncode == 0, done.stdout + done.stderr
        steps = r'(pip wheel) .*--no-cache-dir|(-std=.*)\'|--force-reinstall .*/(.*)/mmcv'
        return [''.join(step) for step in re.findall(steps, log.read_text())]

    return run


def test_mmcv_is_that_of_the_torch_that_is_there(mmcv_steps):
    """Neither one compiled for another torch stays, nor does pip's cache hand it out again."""
    for torch in ('torch==2.1.2', 'torch==2.4.0'):
        assert mmcv_steps(torch) == ['pip wheel', torch]
    assert mmcv_steps('') == []
    assert mmcv_steps('torch==2.1.2') == ['torch==2.1.2']  # was kept
    assert mmcv_steps('torch==2.1.2') == []


def test_mmcv_is_compiled_as_the_headers_of_torch_need_it(mmcv_steps):
    assert mmcv_steps('torch==2.14.1') == ['pip wheel', '-std=c++20', 'torch==2.14.1']


@pytest.mark.parametrize(
    ('kept', 'is_short'),
    [
        ('cp311-torch2.1.2+cu121-x86_64', True),
        ('cp311-torch2.13.0+cpu-x86_64', False),
        ('cp310-torch2.1.2+cu121-x86_64', False),
    ],
)
def test_a_short_time_is_said_only_with_a_wheel_for_this_python_and_torch(
    tmp_path, kept, is_short
):
    python = stand_in(tmp_path / 'venv' / 'bin' / 'python', 'echo cp311')
    stand_in(tmp_path / 'wheels' / kept / 'mmcv-2.1.0-any.whl', '')
    stand_in(tmp_path / 'bin' / 'nproc', 'echo 2')
    environment = dict(
        VENV=str(python.parents[1]),
        CMT_BIAS_CACHE=str(tmp_path),
        PATH=f'{tmp_path / "bin"}:{os.environ["PATH"]}',
    )
    first, *_ = set_up(**environment, TORCH='torch==2.1.2').stdout.splitlines()
    assert first.startswith(f'Set-up: about {5 if is_short else 15} minutes;')
    (python.parents[1] / '.setup' / 'check.done').unlink()
    assert set_up(**environment, TORCH='').stdout.splitlines()[0] == first  # what was chosen


def test_tests_begin_after_the_set_up_whatever_j_says(tmp_path):
    log = shlex.quote(str(tmp_path / 'log'))
    stand_in(tmp_path / 'bin' / 'bash', f'sleep 1; echo set-up >>{log}')  # runs the script
    stand_in(tmp_path / 'venv' / 'bin' / 'python', f'echo tests >>{log}')
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(('MAKE', 'MFLAGS'))}
    path = f'{tmp_path / "bin"}:{os.environ["PATH"]}'
    done = subprocess.run(
        ['make', '-j2', 'pytest', f'VENV={tmp_path / "venv"}'],
        cwd=ROOT,
        env={**inherited, 'PATH': path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'log').read_text().split() == ['set-up', 'tests']


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
