"""The visualise command on a dataset of three samples."""

import os
import pprint
import subprocess
import sys
from pathlib import Path

import pytest

from ..visualization.tiny_dataset import dataset_config, write_tiny_dataset

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A config whose test dataset is the tiny one."""
    write_tiny_dataset(tmp_path)
    settings = dict(
        default_scope='mmdet3d',
        custom_imports=dict(imports=['cmt_bias'], allow_failed_imports=False),
        test_dataloader=dict(dataset=dataset_config(tmp_path)),
    )
    lines = [f'{name} = {pprint.pformat(value)}' for name, value in settings.items()]
    (tmp_path / 'config.py').write_text('\n'.join(lines))
    return tmp_path / 'config.py'


def run_tool(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, 'tools/visualize.py', *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY / 'projects')},
        capture_output=True,
        text=True,
        check=False,
    )


def test_annotations_of_the_asked_samples_are_drawn(config_file, tmp_path):
    done = run_tool(config_file, '--out-dir', tmp_path / 'pictures', '--indices', 0, 2)
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (tmp_path / 'pictures').iterdir())
    assert written == ['test_00000.png', 'test_00002.png']
    assert f'2 pictures in {tmp_path / "pictures"}' in done.stdout


@pytest.mark.parametrize(
    ('arguments', 'cause'),
    [
        (['--indices', 3], '--samples 3'),
        (['no.pth'], "'no.pth' does not exist"),
    ],
)
def test_what_does_not_exist_is_named(config_file, tmp_path, arguments, cause):
    done = run_tool(config_file, *arguments, '--out-dir', tmp_path / 'pictures')
    assert done.returncode != 0
    assert cause in done.stderr
    assert 'remedy:' in done.stderr
    assert 'Traceback' not in done.stderr
