"""What the data check finds in a small dataset folder, as each part of it goes missing."""

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmdet3d.datasets import KittiDataset, NuScenesDataset
from mmdet3d.evaluation import NuScenesMetric
from mmengine.config import Config

from cmt_bias.datasets.nuscenes_dataset import CheckedNuScenesDataset
from cmt_bias.datasets.nuscenes_layout import NUSCENES_TABLES
from cmt_bias.problem import Problem
from cmt_bias.runs.data_check import check_config_data, check_dataset

VERSION = 'v1.0-mini'
BUS = NuScenesDataset.METAINFO['classes'].index('bus')
SAMPLES = {'a': 'scene-0103', 'b': 'scene-0916', 'c': 'scene-0061'}  # the last is in mini_train
PREFIX = dict(pts='samples/LIDAR_TOP', sweeps='sweeps/LIDAR_TOP', CAM_FRONT='samples/CAM_FRONT')


def frame(token: str) -> dict:
    image = dict(img_path=f'{token}.jpg', cam2img=[[1.0]], lidar2cam=[[1.0]])
    car = dict(bbox_3d=[0, 9, 0, 4, 2, 1, 0], bbox_label_3d=0, velocity=[0, 0], num_lidar_pts=3)
    paths = f'sweeps/LIDAR_TOP/{token}-1.bin', f'samples/LIDAR_TOP/{token}-2.bin'
    sweeps = [dict(lidar_points=dict(lidar_path=p, lidar2sensor=[[1.0]])) for p in paths]
    return dict(
        sample_idx=0,
        token=token,
        lidar_points=dict(lidar_path=f'{token}.bin', num_pts_feats=5),
        images=dict(CAM_FRONT=image),
        lidar_sweeps=sweeps,
        instances=[car],
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset with all that is looked for; its info file has the samples of mini_val."""
    for folder in (*PREFIX.values(), VERSION):
        (tmp_path / folder).mkdir(parents=True)
    for token in 'ab':
        for cloud in (
            f'samples/LIDAR_TOP/{token}',
            f'samples/LIDAR_TOP/{token}-2',
            f'sweeps/LIDAR_TOP/{token}-1',
        ):
            np.ones((4, 5), np.float32).tofile(tmp_path / f'{cloud}.bin')
        image = np.zeros((9, 16, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f'samples/CAM_FRONT/{token}.jpg'), image)
    for table in NUSCENES_TABLES:
        (tmp_path / VERSION / f'{table}.json').write_text('[]')
    write_table(tmp_path, 'scene', [dict(token=f's{t}', name=n) for t, n in SAMPLES.items()])
    write_table(tmp_path, 'sample', [dict(token=t, scene_token=f's{t}') for t in SAMPLES])
    write_infos(tmp_path, [frame('a'), frame('b')])
    return tmp_path


def write_table(root: Path, name: str, rows: list[dict]) -> None:
    (root / VERSION / f'{name}.json').write_text(json.dumps(rows))


def write_infos(root: Path, frames: list[dict], version: str = VERSION) -> None:
    infos = dict(metainfo=dict(version=version), data_list=frames)
    (root / 'infos.pkl').write_bytes(pickle.dumps(infos))


def config(root: Path, **dataset) -> Config:
    settings = dict(
        data_root=f'{root}/',
        ann_file='infos.pkl',
        data_prefix=PREFIX,
        modality=dict(use_lidar=True, use_camera=True),
        metainfo=dict(version=VERSION),
        **dataset,
    )
    dataloader = dict(dataset=dict(type='RepeatDataset', dataset=settings))
    evaluator = dict(type='NuScenesMetric', data_root=str(root), ann_file=f'{root}/infos.pkl')
    return Config(
        dict(
            train_dataloader=dataloader,
            val_dataloader=dataloader,
            val_evaluator=evaluator,
            test_dataloader=dataloader,
            test_evaluator=[evaluator],
        )
    )


def the_problem(cfg: Config) -> Problem:
    (problem,) = check_config_data(cfg)
    return problem


def test_a_complete_dataset_has_no_problem(root):
    assert check_config_data(config(root)) == []


@pytest.mark.parametrize(
    'missing',
    ['samples/LIDAR_TOP/b.bin', 'sweeps/LIDAR_TOP/b-1.bin', 'samples/CAM_FRONT/a.jpg'],
)
def test_a_missing_sensor_file_is_named_once(root, missing):
    (root / missing).unlink()
    problem = the_problem(config(root))
    assert f"names '{root / missing}', which does not exist" in problem.what
    assert 'data_root' in problem.remedy


@pytest.mark.parametrize('prefix', PREFIX.values())
def test_a_missing_folder_of_a_sensor_is_named(root, prefix):
    shutil.rmtree(root / prefix)
    problem = the_problem(config(root))
    assert problem.what == f"the data folder '{root / prefix}' does not exist"
    assert 'data_prefix' in problem.remedy


def test_missing_folders_are_named_though_no_sampled_frame_has_a_file_in_them(root):
    frames = [frame('a'), frame('b')]
    for entry in frames:
        del entry['lidar_sweeps']
    write_infos(root, frames)
    dataset = dataset_of(config(root))
    shutil.rmtree(root / 'sweeps')
    (problem,) = check_dataset(dataset)
    assert problem.what == f"the data folder '{root}/sweeps/LIDAR_TOP' does not exist"
    shutil.rmtree(root / 'samples')
    found = [problem.what for problem in check_dataset(dataset, sampled_frames=0)]
    assert found == [
        f"the data folder '{root / prefix}' does not exist" for prefix in sorted(PREFIX.values())
    ]


class DatasetOfTheUser(CheckedNuScenesDataset):
    """Leaves fewer settings open than mmdet3d's."""

    def __init__(self, data_root, ann_file, pipeline, data_prefix, modality, metainfo, radius):
        super().__init__(data_root, ann_file, pipeline, modality=modality)


def test_a_dataset_of_the_user_with_arguments_of_its_own_is_looked_through(root):
    dataset = dict(dataset_of(config(root)), type=DatasetOfTheUser, radius=3.0)
    assert check_dataset(dataset) == []
    (root / 'samples/LIDAR_TOP/b.bin').unlink()
    (problem,) = check_dataset(dataset)
    assert f"names '{root}/samples/LIDAR_TOP/b.bin'" in problem.what


def test_a_missing_info_file_is_named_with_the_command_that_makes_it(root):
    (root / 'infos.pkl').unlink()
    problem = the_problem(config(root))
    assert f"'{root}/infos.pkl' does not exist" in problem.what
    assert 'tools/create_data.py nuscenes' in problem.remedy


def test_a_missing_data_folder_is_named_before_anything_in_it(tmp_path):
    problem = the_problem(config(tmp_path / 'nowhere'))
    assert problem.what == f"the data folder '{tmp_path / 'nowhere'}' does not exist"


def test_a_data_root_without_tables_is_named(root):
    (root / VERSION).rename(root / 'v1.0-test')
    problem = the_problem(config(root))
    assert problem.what == f"'{root / VERSION}' with the nuScenes tables does not exist"
    assert 'data_root' in problem.remedy


def test_missing_tables_are_listed(root):
    for table in ('ego_pose', 'visibility'):
        (root / VERSION / f'{table}.json').unlink()
    assert 'lacks the tables ego_pose, visibility' in the_problem(config(root)).what


def test_samples_that_are_not_the_official_split_are_counted(root):
    write_infos(root, [frame('a')])
    problem = the_problem(config(root))
    assert (
        'has 1 samples, of which 1 are among the 2 of the official split mini_val' in problem.what
    )
    assert '--version v1.0-mini' in problem.remedy


def test_a_config_that_leaves_the_version_to_mmdet3d_is_refused_for_mini(root):
    """NuScenesDataset takes v1.0-trainval for granted, whatever the info file says."""
    cfg = config(root)
    for split in ('val', 'test'):
        del cfg[f'{split}_dataloader'].dataset.dataset['metainfo']
    problem = the_problem(cfg)
    assert "was made from v1.0-mini, but the dataset's config says v1.0-trainval" in problem.what
    assert "metainfo=dict(version='v1.0-mini'" in problem.remedy


def test_an_evaluator_of_other_data_than_its_dataset_is_refused(root):
    cfg = config(root)
    cfg.val_evaluator.ann_file = f'{root}/infos_train.pkl'
    assert 'infos_train.pkl' in the_problem(cfg).what


def test_a_missing_database_for_pasting_is_named(root):
    sampler = dict(info_path=f'{root}/dbinfos.pkl', data_root=str(root), classes=['car'])
    paste = dict(type='UnifiedObjectSample', sample_2d=True, db_sampler=sampler)
    cfg = config(root, pipeline=[paste])
    problem = the_problem(cfg)
    assert f"'{root}/dbinfos.pkl' does not exist" in problem.what
    assert '--image-crops' in problem.remedy


def test_only_the_splits_asked_for_are_looked_at(root):
    cfg = config(root)
    cfg.test_dataloader.dataset.dataset.ann_file = 'other.pkl'
    assert check_config_data(cfg, splits=('train', 'val')) == []
    assert len(check_config_data(cfg, splits=('test',))) == 1


def dataset_of(cfg: Config) -> dict:
    return cfg.test_dataloader.dataset.dataset


def test_a_pipeline_of_one_sensor_is_asked_for_no_other(root):
    """Nor are its folders, its entries in the info file and its place in data_prefix."""
    points = [dict(type='LoadPointsFromFile', load_dim=5)]
    images = [dict(type='LoadCalibratedMultiViewImages')]
    frames = [frame('a'), frame('b')]
    for entry in frames:
        del entry['images']
    write_infos(root, frames)
    for image in (root / 'samples/CAM_FRONT').iterdir():
        image.unlink()
    (root / 'samples/CAM_FRONT').rmdir()
    lidar = dict(dataset_of(config(root)), pipeline=points)
    del lidar['data_prefix']['CAM_FRONT']
    assert check_dataset(lidar, depth='all') == []
    assert 'CAM_FRONT' in check_dataset(dict(lidar, pipeline=images, data_prefix=PREFIX))[0].what
    (problem,) = check_dataset(dict(lidar, pipeline=images))
    assert 'no images in 2 of 2 frames' in problem.what


def test_a_camera_pipeline_is_asked_for_no_points(root):
    frames = [frame('a'), frame('b')]
    for entry in frames:
        del entry['lidar_points'], entry['lidar_sweeps']
    write_infos(root, frames)
    images = [dict(type='LoadCalibratedMultiViewImages')]
    camera = dict(dataset_of(config(root)), pipeline=images, data_prefix=dict(img=''))
    camera['modality'] = dict(use_lidar=False, use_camera=True)
    camera['data_prefix'] = dict(img='samples/CAM_FRONT')
    assert check_dataset(camera, depth='all') == []


def test_data_in_a_store_are_not_looked_for_on_this_machine(root):
    """Which is said: nobody shall think that they are there."""
    store = dict(backend_args=dict(backend='petrel'))
    dataset = dict(dataset_of(config(root)), data_root='s3://bucket/nuscenes/', **store)
    for of_a_store in (dataset, dict(dataset, type='OfTheUser', backend_args=None)):
        (problem,) = check_dataset(of_a_store)
        assert problem.severity == 'note'
        assert problem.what.startswith("'s3://bucket/nuscenes/' is in a store")
    loader = dict(type='LoadPointsFromFile', load_dim=5, **store)
    for cloud in root.rglob('*.bin'):
        cloud.unlink()
    cfg = config(root, pipeline=[loader])
    (problem,) = check_config_data(cfg)
    assert problem.severity == 'note'
    assert f"'{root}/infos.pkl' names are in a store" in problem.what
    cfg.test_evaluator[0].ann_file = 'other.pkl'
    problems = check_config_data(cfg, splits=('test',))
    assert [problem.severity for problem in problems] == ['note', 'error']


@pytest.mark.parametrize(
    'evaluator',
    [
        dict(format_only=True, jsonfile_prefix='somewhere'),
        dict(type='AnotherMetric'),
    ],
)
def test_tables_and_split_are_not_asked_for_where_nothing_is_evaluated(root, evaluator):
    write_infos(root, [frame('a')], version='v1.0-test')
    for table in (root / VERSION).iterdir():
        table.unlink()
    cfg = config(root)
    cfg.test_evaluator[0].update(evaluator)
    assert check_config_data(cfg, splits=('test',)) == []


def test_a_file_of_detections_needs_a_folder(root):
    cfg = config(root)
    cfg.test_evaluator[0].format_only = True
    (problem,) = check_config_data(cfg, splits=('test',))
    assert 'no jsonfile_prefix' in problem.what


def test_other_datasets_and_what_is_built_already_are_not_refused(root):
    """Their needs are not known: what may be fine is a note that says so."""
    cfg = config(root)
    (root / 'infos.pkl').unlink()
    for kind in ('KittiDataset', 'mmdet3d.KittiDataset', KittiDataset, 'OfTheUser'):
        (problem,) = check_dataset(dict(dataset_of(cfg), type=kind))
        assert problem.severity == 'note'
        assert f"needs in '{root}/' was not looked at" in problem.what
    assert check_dataset(dict(type='OfTheUser'))[0].severity == 'note'
    for kind in ('NuScenesDataset', 'mmdet3d.NuScenesDataset', 'AllBoxesNuScenesDataset'):
        assert len(check_dataset(dict(dataset_of(cfg), type=kind))) == 1
    built = SimpleNamespace(get=dict(test_dataloader=dict(dataset=[1, 2])).get)
    assert check_config_data(built) == []


def test_a_missing_folder_of_another_dataset_is_named():
    (problem,) = check_dataset(dict(type='OfTheUser', data_root='/nowhere/'))
    assert problem.severity == 'error'
    assert problem.what == "the data folder '/nowhere' of the OfTheUser does not exist"
    assert 'data_root' in problem.remedy


@pytest.mark.parametrize('metric', ['mmdet3d.NuScenesMetric', NuScenesMetric])
def test_types_are_known_in_every_form_that_mmengine_takes(root, metric):
    cfg = config(root)
    cfg.test_evaluator[0].type = metric
    cfg.test_evaluator[0].ann_file = 'other.pkl'
    assert 'other.pkl' in check_config_data(cfg, splits=('test',))[0].what


def test_the_test_version_is_told_how_to_predict_without_evaluating(root):
    write_infos(root, [frame('a')], version='v1.0-test')
    cfg = config(root)
    dataset_of(cfg).metainfo.version = 'v1.0-test'
    (problem,) = check_config_data(cfg, splits=('test',))
    assert 'has no annotations to evaluate with' in problem.what
    assert 'format_only=True' in problem.remedy


@pytest.mark.parametrize('indices', [1, [0]])
def test_a_part_of_the_split_is_refused_if_evaluated(root, indices):
    cfg = config(root, indices=indices)
    (problem,) = check_config_data(cfg, splits=('test',))
    assert 'has 1 samples' in problem.what
    assert check_config_data(cfg, splits=('test',), evaluates=False) == []


def test_a_training_that_never_validates_needs_no_evaluation(root):
    cfg = config(root)
    cfg.val_evaluator.ann_file = 'other.pkl'
    cfg.train_cfg = dict(max_epochs=3, val_begin=4)
    assert check_config_data(cfg, splits=('val',)) == []
    cfg.train_cfg.val_begin = 3
    assert 'other.pkl' in check_config_data(cfg, splits=('val',))[0].what


def test_a_class_without_a_box_cannot_be_balanced(root):
    classes = ['car', 'bus']
    cfg = config(root)
    cfg.train_dataloader.dataset.dataset.metainfo.classes = classes
    assert check_config_data(cfg, splits=('train',)) == []
    cfg.train_dataloader.dataset.type = 'CBGSDataset'
    (problem,) = check_config_data(cfg, splits=('train',))
    assert problem.what.endswith('no box that counts: bus')
    unseen = frame('a')
    unseen['instances'].append(dict(unseen['instances'][0], bbox_label_3d=BUS, num_lidar_pts=0))
    write_infos(root, [unseen])  # mmdet3d drops a bus without points
    assert check_config_data(cfg, splits=('train',)) == [problem]
    cfg.train_dataloader.dataset.dataset.type = 'AllBoxesNuScenesDataset'
    assert check_config_data(cfg, splits=('train',)) == []


def test_frames_of_other_cameras_cannot_be_put_into_a_batch(root):
    more = frame('b')
    more['images']['CAM_BACK'] = dict(frame('a')['images']['CAM_FRONT'])
    write_infos(root, [frame('a'), more])
    (problem,) = check_dataset(dataset_of(config(root)), batch_size=2)
    assert 'differ in their number of cameras: 1 in 1 frames, 2 in 1 frames' in problem.what
    assert 'batch_size=1' in problem.remedy


def test_a_camera_without_a_folder_in_data_prefix_is_named(root):
    frames = [frame('a'), frame('b')]
    for entry in frames:
        entry['images']['CAM_BACK'] = dict(entry['images']['CAM_FRONT'])
    write_infos(root, frames)
    (problem,) = check_dataset(dataset_of(config(root)), batch_size=2)
    assert 'does not exist' in problem.what and 'data_prefix' in problem.remedy
    dataset = dict(dataset_of(config(root)), data_prefix=dict(PREFIX, img='samples/CAM_FRONT'))
    assert check_dataset(dataset) == []


def spoil(root: Path) -> None:
    """Damage a file of each kind."""
    cloud = root / 'samples/LIDAR_TOP/a.bin'
    cloud.write_bytes(cloud.read_bytes()[:-7])
    points = np.ones((4, 5), np.float32)
    points[2, 3] = np.inf
    points.tofile(root / 'sweeps/LIDAR_TOP/b-1.bin')
    (root / 'samples/CAM_FRONT/a.jpg').write_bytes(b'')
    cv2.imwrite(str(root / 'samples/CAM_FRONT/b.jpg'), np.zeros((9, 16), np.uint8))


def test_every_bad_file_is_listed_when_all_are_read(root):
    spoil(root)
    dataset = dataset_of(config(root))
    assert check_dataset(dataset) == []
    found = {problem.what for problem in check_dataset(dataset, depth='all')}
    assert found == {
        f"'{root}/samples/LIDAR_TOP/a.bin' is cut off: 73 bytes are no whole number of points of "
        '20 (frame a)',
        f"'{root}/sweeps/LIDAR_TOP/b-1.bin' has NaN or infinite values in 1 of 4 points (frame b)",
        f"'{root}/samples/CAM_FRONT/a.jpg' is empty (frame a)",
        f"'{root}/samples/CAM_FRONT/b.jpg' has 1 colour channels instead of 3 (frame b)",
    }


def test_bad_files_only_warn_where_a_training_leaves_them_out(root):
    spoil(root)
    dataset = dict(dataset_of(config(root)), skip_bad_frames=True)
    assert {p.severity for p in check_dataset(dataset, depth='all')} == {'warning'}
    dataset['test_mode'] = True
    assert {p.severity for p in check_dataset(dataset, depth='all')} == {'error'}
