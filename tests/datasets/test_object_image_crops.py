import pickle

import cv2
import mmengine
import numpy as np
import pytest
from mmdet3d.datasets.transforms import DataBaseSampler

from cmt_bias.datasets.database_check import check_database
from cmt_bias.datasets.image_pasting import VisibleBoxes
from cmt_bias.datasets.object_image_crops import (
    MAX_OCCLUDED_SHARE,
    lidar_to_image,
    occluded_shares,
)

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


def all_crops(database):
    for entries in database.values():
        for entry in entries:
            for crop in entry['image_crops']:
                yield entry, crop


def test_crop_is_the_region_of_the_source_image(smallest_nuscenes, database, samples):
    count = 0
    for entry, crop in all_crops(database):
        camera = crop['camera']
        name = samples[entry['image_idx']]['images'][camera]['img_path']
        image = cv2.imread(str(smallest_nuscenes / 'samples' / camera / name)).astype(int)
        left, top, right, bottom = crop['box']
        cut = cv2.imread(str(smallest_nuscenes / crop['path'])).astype(int)
        assert cut.shape == (bottom - top, right - left, 3)
        # JPEG twice: equal but for its artefacts.
        assert np.abs(cut - image[top:bottom, left:right]).mean() < 8
        count += 1
    assert count > 50


def test_crop_surrounds_the_projected_centre_of_its_box(database, samples):
    for entry, crop in all_crops(database):
        matrix = lidar_to_image(samples[entry['image_idx']]['images'][crop['camera']])
        x, y, bottom, height = entry['box3d_lidar'][[0, 1, 2, 5]]
        u, v, depth, _ = matrix @ np.array([x, y, bottom + height / 2, 1.0])
        np.testing.assert_allclose(crop['depth'], depth, atol=1e-3)
        left, top, right, bottom = crop['box']
        if 0 < u / depth < 160 and 0 < v / depth < 90:
            assert left <= u / depth <= right and top <= v / depth <= bottom


def test_image_path_is_that_of_the_largest_crop(database):
    for entries in database.values():
        for entry in entries:
            areas = {}
            for crop in entry['image_crops']:
                left, top, right, bottom = crop['box']
                areas[crop['path']] = (right - left) * (bottom - top)
            if areas:
                assert areas[entry['image_path']] == max(areas.values())
            else:
                assert entry['image_path'] == ''


def test_hidden_objects_have_no_crop(database):
    assert all(crop['occluded'] <= MAX_OCCLUDED_SHARE for _, crop in all_crops(database))


def test_occlusion_counts_the_union_of_nearer_rectangles():
    rectangles = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [5, 0, 15, 5]])  # farthest first
    boxes = VisibleBoxes(np.arange(3), rectangles, np.array([30.0, 20.0, 10.0]))
    np.testing.assert_allclose(occluded_shares(boxes, (20, 20)), [0.5, 0.5, 0.0])


def test_preflight_check_finds_nothing_wrong(smallest_nuscenes):
    path = str(smallest_nuscenes / 'nuscenes_dbinfos_train.pkl')
    assert check_database(path, str(smallest_nuscenes), CLASSES, image_crops=True) == []


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
