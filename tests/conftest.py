"""Fixtures and settings for all tests."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

# Before anything imports triton: its kernels run on the CPU in the tests.
os.environ.setdefault('TRITON_INTERPRET', '1')

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints
from mmengine.registry import init_default_scope

from cmt_bias.datasets.nuscenes_conversion import convert_nuscenes
from nuscenes_synth import DatasetSettings, generate_dataset

# The same examples in every run, and no limit on time: a busy machine is not a failure.
settings.register_profile('repository', derandomize=True, deadline=None)
settings.load_profile('repository')


SLOW_FOLDERS = {'tools', 'end_to_end', 'pretend_cuda', 'study'}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files come first: processes that take a file at a time then end together."""
    items.sort(key=lambda item: item.path.parent.name not in SLOW_FOLDERS)


@pytest.fixture(autouse=True)
def mmdet3d_scope(mmdet3d_scope_of_fixtures: None) -> None:
    """Names are looked up in mmdet3d's registries, whatever scope a test before has left."""
    init_default_scope('mmdet3d')


@pytest.fixture(scope='module', autouse=True)
def mmdet3d_scope_of_fixtures() -> None:
    """The same for fixtures of a module, which are made before those of its tests."""
    init_default_scope('mmdet3d')


@pytest.fixture(scope='session')
def compile_library(pytestconfig: pytest.Config) -> Callable[..., Path]:
    """Function that compiles a C++ source with options, once while neither changes."""

    def compile_library(source: Path, *options: str) -> Path:
        compiler = subprocess.run(['g++', '--version'], capture_output=True, check=True).stdout
        known = source.read_bytes() + compiler + str((options, torch.__version__)).encode()
        digest = hashlib.sha256(known).hexdigest()[:16]
        library = pytestconfig.cache.mkdir('libraries') / f'{source.stem}_{digest}.so'
        if not library.exists():
            made = library.with_suffix(f'.{os.getpid()}')
            command = ['g++', '-shared', '-fPIC', *options, str(source), '-o', str(made)]
            subprocess.run(command, check=True)
            made.replace(library)
        return library

    return compile_library


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


def camera_matrices(num_views: int, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics and extrinsics (V, 4, 4) of cameras around the z axis, looking outwards."""
    height, width = image_size
    cam2img = np.tile(np.eye(4), (num_views, 1, 1))
    cam2img[:, 0, 0] = cam2img[:, 1, 1] = 0.8 * width
    cam2img[:, 0, 2], cam2img[:, 1, 2] = 0.51 * width, 0.47 * height
    lidar2cam = np.tile(np.eye(4), (num_views, 1, 1))
    for view, angle in enumerate(np.arange(num_views) * 2 * np.pi / num_views):
        forward = np.array([np.cos(angle), np.sin(angle), 0.0])
        right = np.array([np.sin(angle), -np.cos(angle), 0.0])
        lidar2cam[view, :3, :3] = np.stack([right, [0.0, 0.0, -1.0], forward])
        lidar2cam[view, :3, 3] = [0.05, 0.3, -0.4]
    return cam2img, lidar2cam


def random_boxes(rng: np.random.Generator, number: int) -> LiDARInstance3DBoxes:
    """Boxes with velocity, anywhere within 30 m."""
    return LiDARInstance3DBoxes(
        torch.from_numpy(
            np.concatenate(
                [
                    rng.uniform([-30, -30, -2], [30, 30, 0], (number, 3)),
                    rng.uniform(0.5, 4.0, (number, 3)),
                    rng.uniform(-np.pi, np.pi, (number, 1)),
                    rng.normal(0, 5, (number, 2)),
                ],
                axis=1,
            ).astype(np.float32)
        ),
        box_dim=9,
    )


@pytest.fixture(scope='session')
def make_sample() -> Callable[..., dict]:
    """Factory of samples as they are after loading."""

    def make(
        seed: int = 0,
        num_boxes: int = 5,
        num_points: int = 200,
        num_views: int = 3,
        image_size: tuple[int, int] = (90, 160),
    ) -> dict:
        rng = np.random.default_rng(seed)
        cam2img, lidar2cam = camera_matrices(num_views, image_size)
        points = rng.uniform([-30, -30, -2, 0, 0], [30, 30, 2, 255, 0.5], (num_points, 5))
        return dict(
            sample_idx=seed,
            images={f'CAM_{view}': {} for view in range(num_views)},
            img=[rng.integers(1, 255, (*image_size, 3), dtype=np.uint8) for _ in range(num_views)],
            img_shape=image_size,
            ori_shape=image_size,
            pad_shape=image_size,
            cam2img=cam2img,
            lidar2cam=lidar2cam,
            lidar2img=cam2img @ lidar2cam,
            points=LiDARPoints(torch.from_numpy(points.astype(np.float32)), points_dim=5),
            gt_bboxes_3d=random_boxes(rng, num_boxes),
            gt_labels_3d=rng.integers(0, 2, num_boxes),
            box_type_3d=LiDARInstance3DBoxes,
        )

    return make
