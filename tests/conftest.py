"""Fixtures and settings for all tests."""

import os
from pathlib import Path

# Before anything imports triton: its kernels run on the CPU in the tests.
os.environ.setdefault('TRITON_INTERPRET', '1')

import pytest
from filelock import FileLock
from hypothesis import settings
from mmengine.registry import init_default_scope

from cmt_bias.datasets.nuscenes_conversion import convert_nuscenes
from nuscenes_synth import DatasetSettings, generate_dataset

# The same examples in every run, and no limit on time: a busy machine is not a failure.
settings.register_profile('repository', derandomize=True, deadline=None)
settings.load_profile('repository')


@pytest.fixture(autouse=True)
def mmdet3d_scope() -> None:
    """Names are looked up in mmdet3d's registries, whatever scope a test before has left."""
    init_default_scope('mmdet3d')


SMALLEST_SETTINGS = DatasetSettings(
    train_scenes=1, val_scenes=1, samples_per_scene=3, image_scale=0.1, lidar_azimuths=360
)


@pytest.fixture(scope='session')
def smallest_nuscenes_settings() -> DatasetSettings:
    """Settings of :func:`smallest_nuscenes`."""
    return SMALLEST_SETTINGS


@pytest.fixture(scope='session')
def smallest_nuscenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder like ``data/nuscenes`` with a synthetic dataset, info files and database.

    One day scene of three keyframes a split, 160 x 90 images. Made once for all tests, also when
    pytest-xdist runs them in several processes; do not write into it.
    """
    shared = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        shared = shared.parent
    root = shared / 'data' / 'nuscenes'
    root.parent.mkdir(exist_ok=True)
    with FileLock(shared / 'smallest_nuscenes.lock'):
        generate_dataset(root, SMALLEST_SETTINGS, show_progress=False)
        if not (root / 'nuscenes_dbinfos_train.pkl').is_file():
            convert_nuscenes(root, root)
    return root
