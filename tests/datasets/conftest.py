"""A small made-up scene, and a database for pasting, built by the tests that need them."""

import pickle
from collections.abc import Callable
from pathlib import Path

import mmcv
import numpy as np
import pytest

CLASSES = ('car', 'pedestrian')


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
