import itertools
import pickle
import shutil

import cv2
import mmengine
import numpy as np
import pytest
from mmdet3d.datasets.transforms import DataBaseSampler

from cmt_bias.datasets.loading import camera_matrices
from cmt_bias.datasets.nuscenes_conversion import add_image_crops
from cmt_bias.datasets.object_database import check_database

CLASSES = (
    'car',
    'truck',
    'trailer',
    'bus',
    'construction_vehicle',
    'bicycle',
    'motorcycle',
    'pedestrian',
    'traffic_cone',
    'barrier',
)


@pytest.fixture(scope='module')
def database(smallest_nuscenes):
    with open(smallest_nuscenes / 'nuscenes_dbinfos_train.pkl', 'rb') as file:
        return pickle.load(file)


@pytest.fixture(scope='module')
def samples(smallest_nuscenes):
    return mmengine.load(smallest_nuscenes / 'nuscenes_infos_train.pkl')['data_list']


def with_crop(database):
    return [entry for found in database.values() for entry in found if entry['image_path']]


def corners_of(entry):
    """Corners (8, 3) of an entry's box, metres, LiDAR frame."""
    x, y, bottom, *size, yaw = entry['box3d_lidar'][:7]
    signs = np.array(list(itertools.product((-0.5, 0.5), (-0.5, 0.5), (0, 1))))
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return signs * size @ turn.T + [x, y, bottom]


def rectangles_of(entry, sample):
    """Left, top, right, bottom and depth of an entry's box in the cameras that it is before."""
    found = {}
    cameras = sample['images']
    matrices = camera_matrices(cameras, 'cam2img') @ camera_matrices(cameras, 'lidar2cam')
    for camera, matrix in zip(cameras, matrices, strict=True):
        u, v, depth = matrix[:3, :3] @ corners_of(entry).T + matrix[:3, 3:]
        if (depth > 0).all():
            across, down = (
                (u / depth).astype(int).clip(0, 159),
                (v / depth).astype(int).clip(0, 89),
            )
            found[camera] = (across.min(), down.min(), across.max(), down.max(), depth.mean())
    return found


def test_the_crop_is_what_the_camera_shows_that_sees_most_of_the_object(
    smallest_nuscenes, database, samples
):
    assert len(with_crop(database)) > 20
    for entry in with_crop(database):
        sample, camera = samples[entry['image_idx']], entry['image_crop_key']
        rectangles = rectangles_of(entry, sample)
        left, top, right, bottom, depth = rectangles[camera]
        areas = [(r[2] - r[0]) * (r[3] - r[1]) for r in rectangles.values() if min(sides(r)) > 10]
        assert (right - left) * (bottom - top) == max(areas)
        np.testing.assert_allclose(entry['image_crop_depth'], depth, atol=1e-3)
        name = sample['images'][camera]['img_path']
        image = cv2.imread(str(smallest_nuscenes / 'samples' / camera / name)).astype(int)
        cut = cv2.imread(str(smallest_nuscenes / entry['image_path'])).astype(int)
        assert cut.shape == (bottom - top, right - left, 3)
        # JPEG twice: equal but for its artefacts.
        assert np.abs(cut - image[top:bottom, left:right]).mean() < 8


def sides(rectangle):
    return rectangle[2] - rectangle[0], rectangle[3] - rectangle[1]


def test_every_object_that_a_camera_shows_has_a_crop_hidden_or_not(database, samples):
    for entries in database.values():
        for entry in entries:
            rectangles = rectangles_of(entry, samples[entry['image_idx']]).values()
            assert bool(entry['image_path']) == any(min(sides(r)) > 10 for r in rectangles)


def test_preflight_check_finds_nothing_wrong(smallest_nuscenes):
    path = str(smallest_nuscenes / 'nuscenes_dbinfos_train.pkl')
    sampler = dict(info_path=path, data_root=str(smallest_nuscenes), classes=CLASSES)
    sampler.update(rate=1.0, prepare={}, sample_groups=dict.fromkeys(CLASSES, 1))
    assert check_database(dict(sample_2d=True, db_sampler=sampler), read_all=True) == []


def test_a_crop_that_cannot_be_written_ends_the_conversion(smallest_nuscenes, tmp_path):
    for name in ('nuscenes_dbinfos_train.pkl', 'nuscenes_infos_train.pkl'):
        shutil.copy(smallest_nuscenes / name, tmp_path / name)
    with pytest.raises(OSError, match=r'nuscenes_gt_database.*\.jpg'):  # there is no such folder
        add_image_crops(
            tmp_path / 'nuscenes_dbinfos_train.pkl',
            tmp_path / 'nuscenes_infos_train.pkl',
            smallest_nuscenes,
        )


def test_stock_sampler_reads_the_extended_database(smallest_nuscenes, monkeypatch):
    # mmdet3d 1.4 uses this name, which numpy dropped in 1.24.
    monkeypatch.setattr(np, 'long', np.int64, raising=False)
    sampler = DataBaseSampler(
        info_path=str(smallest_nuscenes / 'nuscenes_dbinfos_train.pkl'),
        data_root=str(smallest_nuscenes),
        rate=1.0,
        prepare={'filter_by_difficulty': [-1], 'filter_by_min_points': {'car': 5}},
        sample_groups={'car': 2},
        classes=CLASSES,
        points_loader={
            'type': 'mmdet3d.LoadPointsFromFile',
            'coord_type': 'LIDAR',
            'load_dim': 5,
            'use_dim': [0, 1, 2, 3, 4],
        },
    )
    far_away = np.array([[500.0, 500.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    sampled = sampler.sample_all(far_away, np.array([1]))
    assert (sampled['gt_labels_3d'] == 0).all()
    assert len(sampled['points']) > 0
