"""A small made-up scene, and a database for pasting, built by the tests that need them."""

import pickle
from collections.abc import Callable
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints

CLASSES = ('car', 'pedestrian')


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
            gt_labels_3d=rng.integers(0, len(CLASSES), num_boxes),
            box_type_3d=LiDARInstance3DBoxes,
        )

    return make


@pytest.fixture
def make_database(tmp_path: Path) -> Callable[..., Path]:
    """Factory of databases for pasting, in ``tmp_path``; returns the path of the pickle."""

    def make(number: int = 20, image_crops: bool = True, radius: float = 28.0) -> Path:
        rng = np.random.default_rng(7)
        (tmp_path / 'db').mkdir()
        infos: dict[str, list[dict]] = {name: [] for name in CLASSES}
        for index in range(number):
            name = CLASSES[index % len(CLASSES)]
            size = (4.0, 1.8, 1.5) if name == 'car' else (0.7, 0.7, 1.8)
            angle = rng.uniform(-np.pi, np.pi)
            distance = rng.uniform(6, radius)
            box = np.array(
                [distance * np.cos(angle), distance * np.sin(angle), -1.5, *size, angle, 1, 2],
                dtype=np.float32,
            )
            points = rng.uniform(-0.2, 0.2, (6, 5)).astype(np.float32)
            points[:, 2] += size[2] / 2
            points[:, 3] = index  # tells the objects apart
            points.tofile(tmp_path / 'db' / f'{index}.bin')
            entry = dict(
                name=name,
                path=f'db/{index}.bin',
                image_idx=index,
                gt_idx=0,
                box3d_lidar=box,
                num_points_in_gt=len(points),
                difficulty=0,
                group_id=index,
            )
            if image_crops:
                path = f'db/{index}.png'
                crop = rng.integers(0, 255, (12, 20, 3), dtype=np.uint8)
                mmcv.imwrite(crop, str(tmp_path / path))
                entry.update(image_path=path, image_crop_key='CAM_0', image_crop_depth=9.0)
            infos[name].append(entry)
        info_path = tmp_path / 'dbinfos.pkl'
        info_path.write_bytes(pickle.dumps(infos))
        return info_path

    return make
