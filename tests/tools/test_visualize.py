"""The visualise command on a dataset of three samples."""

import pprint
from pathlib import Path

import pytest

from ..visualization.tiny_dataset import dataset_config, write_tiny_dataset


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


def test_annotations_of_the_asked_samples_are_drawn(call_tool, config_file, tmp_path):
    folder = tmp_path / 'pictures'
    status, said = call_tool('visualize', config_file, '--out-dir', folder, '--indices', 0, 2)
    assert status == 0, said
    written = sorted(path.name for path in folder.iterdir())
    assert written == ['test_00000.png', 'test_00002.png']
    assert f'2 pictures in {folder}' in said


@pytest.mark.parametrize(
    ('arguments', 'cause'),
    [
        (['--indices', 3], '--samples 3'),
        (['no.pth'], "'no.pth' does not exist"),
    ],
)
def test_what_does_not_exist_is_named(call_tool, config_file, tmp_path, arguments, cause):
    status, said = call_tool('visualize', config_file, *arguments, '--out-dir', tmp_path / 'new')
    assert status == 2
    assert cause in said
    assert 'remedy:' in said
