import contextlib
import json
import pickle
import shutil
from collections import Counter

import mmdet3d
import mmengine
import numpy as np
import pytest
from mmdet3d.datasets import NuScenesDataset
from nuscenes import NuScenes
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import LidarPointCloud

from cmt_bias.datasets import LoadAlignedSweeps, nuscenes_conversion
from cmt_bias.datasets.nuscenes_conversion import (
    DatasetLayoutError,
    _prepared_converter,
    check_layout,
    convert_nuscenes,
)


@pytest.fixture(scope='module')
def nusc(smallest_nuscenes):
    return NuScenes('v1.0-trainval', str(smallest_nuscenes), verbose=False)


@pytest.fixture(scope='module')
def database(smallest_nuscenes):
    with open(smallest_nuscenes / 'nuscenes_dbinfos_train.pkl', 'rb') as file:
        return pickle.load(file)


def annotation_counts(nusc, sample_token):
    sample = nusc.get('sample', sample_token)
    names = (
        category_to_detection_name(nusc.get('sample_annotation', token)['category_name'])
        for token in sample['anns']
    )
    return Counter(name for name in names if name)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_infos_hold_every_sample_and_box(smallest_nuscenes, nusc, split):
    infos = mmengine.load(smallest_nuscenes / f'nuscenes_infos_{split}.pkl')
    assert infos['metainfo']['info_version'] == '1.1'
    assert len(infos['data_list']) == 3
    classes = {label: name for name, label in infos['metainfo']['categories'].items()}
    for sample in infos['data_list']:
        labels = [instance['bbox_label_3d'] for instance in sample['instances']]
        counts = Counter(classes[label] for label in labels if label >= 0)
        assert counts == annotation_counts(nusc, sample['token'])
        others = sum(label < 0 for label in labels)  # objects of no detection class are kept
        assert others + counts.total() == len(nusc.get('sample', sample['token'])['anns'])


def test_boxes_are_the_devkit_ones_in_the_lidar_frame(smallest_nuscenes, nusc):
    sample = mmengine.load(smallest_nuscenes / 'nuscenes_infos_val.pkl')['data_list'][1]
    token = nusc.get('sample', sample['token'])['data']['LIDAR_TOP']
    _, boxes, _ = nusc.get_sample_data(token)
    for box, instance in zip(boxes, sample['instances'], strict=True):
        width, length, height = box.wlh
        expected = [*box.center, length, width, height, box.orientation.yaw_pitch_roll[0]]
        np.testing.assert_allclose(instance['bbox_3d'], expected, atol=1e-6)


def test_boxes_in_cameras_stay_inside_the_image(smallest_nuscenes):
    """mmdet3d clips to 1600 x 900 whatever the image's size; here it is 160 x 90."""
    found = 0
    for sample in mmengine.load(smallest_nuscenes / 'nuscenes_infos_train.pkl')['data_list']:
        for instances in sample['cam_instances'].values():
            for instance in instances:
                left, top, right, bottom = instance['bbox']
                assert 0 <= left <= right <= 160
                assert 0 <= top <= bottom <= 90
                found += 1
    assert found > 30


def nuscenes_dataset(root, ann_file='nuscenes_infos_train.pkl'):
    return NuScenesDataset(
        data_root=str(root),
        ann_file=ann_file,
        data_prefix={'pts': 'samples/LIDAR_TOP', 'sweeps': 'sweeps/LIDAR_TOP', 'img': ''},
        pipeline=[
            {'type': 'LoadPointsFromFile', 'coord_type': 'LIDAR', 'load_dim': 5, 'use_dim': 5},
            {'type': 'LoadAlignedSweeps', 'sweeps_num': 4, 'test_mode': True},
        ],
    )


def test_dataset_class_reads_points_sweeps_and_boxes(smallest_nuscenes):
    dataset = nuscenes_dataset(smallest_nuscenes)
    assert [len(dataset.get_data_info(i).get('lidar_sweeps', [])) for i in range(3)] == [0, 2, 4]
    results = dataset.pipeline(dataset.get_data_info(2))
    ages = np.round(np.unique(results['points'].numpy()[:, -1]), 2)
    np.testing.assert_allclose(ages, [0, 0.25, 0.5, 0.75, 1.0])


def devkit_cloud(nusc, sample_token):
    """Keyframe and all earlier sweeps (N, 3) in the keyframe's frame, and their ages."""
    cloud, ages = LidarPointCloud.from_file_multisweep(
        nusc, nusc.get('sample', sample_token), 'LIDAR_TOP', 'LIDAR_TOP', 10, min_distance=0.0
    )
    return cloud.points[:3].T, ages[0]


def test_sweeps_of_a_turning_vehicle_lie_where_the_devkit_puts_them(smallest_nuscenes, nusc):
    dataset = nuscenes_dataset(smallest_nuscenes, 'nuscenes_infos_val.pkl')
    info = dataset.get_data_info(2)
    oldest = np.array(info['lidar_sweeps'][-1]['lidar_points']['lidar2sensor'])
    turned = np.degrees(np.arctan2(oldest[1, 0], oldest[0, 0]))
    assert abs(turned) > 2, 'the scene must turn, or it shows nothing'
    expected, ages = devkit_cloud(nusc, info['token'])
    loaded = dataset.pipeline(info)['points'].numpy()
    np.testing.assert_allclose(loaded[:, :3], expected, atol=1e-3)
    np.testing.assert_allclose(loaded[:, -1], ages, atol=1e-6)


def test_the_database_is_written_with_the_same_loader(smallest_nuscenes, nusc):
    config = dict(
        type='NuScenesDataset',
        data_root=str(smallest_nuscenes),
        ann_file='nuscenes_infos_train.pkl',
        data_prefix={'pts': 'samples/LIDAR_TOP', 'sweeps': 'sweeps/LIDAR_TOP', 'img': ''},
        pipeline=[{'type': 'LoadPointsFromMultiSweeps', 'remove_close': True}],
    )
    with _prepared_converter(nusc) as converter:
        dataset = converter.database.DATASETS.build(config)
    (loader,) = dataset.pipeline.transforms
    assert isinstance(loader, LoadAlignedSweeps) and loader.remove_close


def test_sweep_paths_are_relative_and_exist(smallest_nuscenes):
    for split in ('train', 'val'):
        infos = mmengine.load(smallest_nuscenes / f'nuscenes_infos_{split}.pkl')
        for sample in infos['data_list']:
            for sweep in sample.get('lidar_sweeps', []):
                assert (smallest_nuscenes / sweep['lidar_points']['lidar_path']).is_file()


def test_database_holds_all_training_objects_with_their_points(smallest_nuscenes, nusc, database):
    """Also checks that objects of no class are not taken for barriers, as mmdet3d does."""
    counts = Counter()
    for sample in mmengine.load(smallest_nuscenes / 'nuscenes_infos_train.pkl')['data_list']:
        counts += annotation_counts(nusc, sample['token'])
    assert {name: len(entries) for name, entries in database.items()} == counts
    for entries in database.values():
        for entry in entries:
            points = np.fromfile(smallest_nuscenes / entry['path'], dtype=np.float32)
            assert points.size == 5 * entry['num_points_in_gt'] > 0


@pytest.fixture()
def copied_tables(smallest_nuscenes, tmp_path):
    """A dataset folder with the same tables and maps, and links to the sensor files."""
    root = tmp_path / 'dataset'
    root.mkdir()
    for name in ('v1.0-trainval', 'maps'):
        shutil.copytree(smallest_nuscenes / name, root / name)
    for name in ('samples', 'sweeps'):
        (root / name).symlink_to(smallest_nuscenes / name)
    return root


def test_output_folder_may_differ_and_workers_change_nothing(
    smallest_nuscenes, copied_tables, tmp_path
):
    counts = convert_nuscenes(
        copied_tables, tmp_path / 'out', prefix='other', image_crops=False, workers=2
    )
    assert counts['train'] == counts['val'] == 3
    assert counts['crops'] == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'other_dbinfos_train.pkl',
        'other_gt_database',
        'other_infos_train.pkl',
        'other_infos_val.pkl',
    ]
    assert not list(copied_tables.glob('*.pkl')), 'nothing is written beside the data'
    first = mmengine.load(smallest_nuscenes / 'nuscenes_infos_val.pkl')
    second = mmengine.load(tmp_path / 'out' / 'other_infos_val.pkl')
    assert repr(first['data_list']) == repr(second['data_list'])


def test_a_conversion_killed_over_an_older_one_leaves_no_part_of_a_database(
    copied_tables, tmp_path, monkeypatch
):
    out = tmp_path / 'out'
    database = out / 'nuscenes_gt_database'
    database.mkdir(parents=True)
    old = {f'{number}.bin' for number in range(5)}
    for name in old:
        (database / name).write_bytes(b'')
    (out / 'nuscenes_dbinfos_train.pkl').write_bytes(b'old')
    remove = shutil.rmtree

    def killed_meanwhile(path, **options):
        """Deleting many files takes minutes; of what a later run ends, nothing matters."""
        if path.name == '.unfinished_conversion':
            remove(path, **options)
        else:
            next(path.iterdir()).unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, 'rmtree', killed_meanwhile)
    with contextlib.suppress(KeyboardInterrupt):
        convert_nuscenes(copied_tables, out, image_crops=False)
    there = {path.name for path in database.iterdir()}
    if there != old:
        entries = pickle.loads((out / 'nuscenes_dbinfos_train.pkl').read_bytes())
        named = (entry['path'] for found in entries.values() for entry in found)
        assert there == {name.split('/')[-1] for name in named}
    assert not (out / '.unfinished_conversion').exists()


@pytest.mark.parametrize('name', ['nuscenes_infos_train.pkl', 'nuscenes_infos_val.pkl'])
def test_another_version_is_not_replaced(copied_tables, name):
    content = pickle.dumps(dict(metainfo=dict(version='v1.0-mini'), data_list=[]))
    (copied_tables / name).write_bytes(content)
    with pytest.raises(
        DatasetLayoutError, match=rf'{name} is of v1\.0-mini.*--extra-tag.*--out-dir'
    ):
        convert_nuscenes(copied_tables, copied_tables)
    assert (copied_tables / name).read_bytes() == content
    assert not list(copied_tables.glob('*dbinfos*'))


@pytest.mark.parametrize(
    'content',
    [
        pickle.dumps(dict(metainfo=dict(version='v1.0-trainval'), data_list=[])),
        pickle.dumps(dict(metainfo={}, data_list=[])),
        pickle.dumps(dict(infos=[], metadata=dict(version='v1.0-mini'))),  # before mmdet3d 1.1
        b'damaged',
    ],
)
def test_a_file_of_the_same_version_or_of_none_is_replaced(copied_tables, monkeypatch, content):
    class ReachedError(Exception):
        pass

    def load_tables(*_args, **_settings):
        raise ReachedError

    monkeypatch.setattr(nuscenes_conversion, 'NuScenes', load_tables)
    (copied_tables / 'nuscenes_infos_val.pkl').write_bytes(content)
    with pytest.raises(ReachedError):
        convert_nuscenes(copied_tables, copied_tables)


def test_missing_dataset_folder_is_named(tmp_path):
    with pytest.raises(DatasetLayoutError, match=r'absent does not exist.*create_synthetic'):
        check_layout(tmp_path / 'absent', 'v1.0-trainval')


def test_folder_without_tables_names_the_folder_and_the_remedy(tmp_path):
    (tmp_path / 'samples').mkdir()
    with pytest.raises(DatasetLayoutError, match=r'tables in .*v1\.0-mini.*Unpack.*none'):
        check_layout(tmp_path, 'v1.0-mini')


def test_other_version_that_is_there_is_offered(copied_tables):
    with pytest.raises(DatasetLayoutError, match=r'pass --version \(found: v1\.0-trainval\)'):
        convert_nuscenes(copied_tables, copied_tables, version='v1.0-mini')


def test_half_unpacked_tables_are_named(copied_tables):
    (copied_tables / 'v1.0-trainval' / 'sample_data.json').unlink()
    with pytest.raises(DatasetLayoutError, match=r'sample_data\.json is not in it'):
        check_layout(copied_tables, 'v1.0-trainval')


def test_missing_map_file_is_named(copied_tables):
    missing = sorted((copied_tables / 'maps').iterdir())[0]
    missing.unlink()
    with pytest.raises(DatasetLayoutError, match=f'{missing.name} is missing'):
        convert_nuscenes(copied_tables, copied_tables)


def test_dataset_without_validation_scene_is_refused(copied_tables):
    path = copied_tables / 'v1.0-trainval' / 'scene.json'
    scenes = json.loads(path.read_text())
    scenes[1]['name'] = 'scene-9999'
    path.write_text(json.dumps(scenes))
    with pytest.raises(DatasetLayoutError, match='no scene of the official split val'):
        convert_nuscenes(copied_tables, copied_tables)


def test_unknown_version_is_refused(tmp_path):
    with pytest.raises(DatasetLayoutError, match=r'must be one of v1\.0-trainval, v1\.0-mini'):
        check_layout(tmp_path, 'v1.0')


def test_an_mmdet3d_without_its_scripts_is_told_with_the_remedy(
    copied_tables, tmp_path, monkeypatch
):
    """As an editable install without the files that a wheel carries."""
    monkeypatch.setattr(mmdet3d, '__file__', str(tmp_path / 'mmdet3d' / '__init__.py'))
    with pytest.raises(
        DatasetLayoutError, match=r'mmdet3d/\.mim/tools has no converter: pip install mmdet3d=='
    ):
        convert_nuscenes(copied_tables, tmp_path / 'out')
    assert not list((tmp_path / 'out').iterdir())
