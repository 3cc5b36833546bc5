"""What the tests of the pictures share."""

from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

from .tiny_dataset import write_tiny_dataset


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """Folder of the tiny dataset."""
    folder = tmp_path / 'tiny'
    folder.mkdir()
    write_tiny_dataset(folder)
    return folder


@pytest.fixture
def mmdet3d_scope():
    """Registries of mmdet3d, as a config's ``default_scope`` chooses them."""
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        yield
