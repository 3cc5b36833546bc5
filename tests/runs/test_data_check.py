"""What the data check finds in a small dataset folder, as each part of it goes missing."""

import json
import pickle
from pathlib import Path

import pytest
from mmengine.config import Config

from cmt_bias.problem import Problem
from cmt_bias.runs.data_check import NUSCENES_TABLES, check_config_data, sensor_files

VERSION = 'v1.0-mini'
SAMPLES = {'a': 'scene-0103', 'b': 'scene-0916', 'c': 'scene-0061'}  # the last is in mini_train
PREFIX = dict(pts='samples/LIDAR_TOP', sweeps='sweeps/LIDAR_TOP', CAM_FRONT='samples/CAM_FRONT')


def frame(token: str) -> dict:
    image = dict(img_path=f'{token}.jpg', cam2img=[[1.0]], lidar2cam=[[1.0]])
    sweeps = [
        dict(lidar_points=dict(lidar_path=f'sweeps/LIDAR_TOP/{token}-1.bin')),
        dict(lidar_points=dict(lidar_path=f'samples/LIDAR_TOP/{token}-2.bin')),
    ]
    return dict(
        sample_idx=0,
        token=token,
        lidar_points=dict(lidar_path=f'{token}.bin'),
        images=dict(CAM_FRONT=image),
        lidar_sweeps=sweeps,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset with all that is looked for; its info file has the samples of mini_val."""
    for folder in (*PREFIX.values(), VERSION):
        (tmp_path / folder).mkdir(parents=True)
    for token in 'ab':
        (tmp_path / f'samples/LIDAR_TOP/{token}.bin').touch()
        (tmp_path / f'samples/LIDAR_TOP/{token}-2.bin').touch()
        (tmp_path / f'sweeps/LIDAR_TOP/{token}-1.bin').touch()
        (tmp_path / f'samples/CAM_FRONT/{token}.jpg').touch()
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
    dataloader = dict(dataset=dict(type='CBGSDataset', dataset=settings))
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


def test_files_of_a_frame_are_looked_for_where_mmdet3d_loads_them(root):
    dataset = config(root).test_dataloader.dataset.dataset
    assert sensor_files(frame('a'), dataset) == [
        root / 'samples/LIDAR_TOP/a.bin',
        root / 'sweeps/LIDAR_TOP/a-1.bin',
        root / 'samples/LIDAR_TOP/a-2.bin',
        root / 'samples/CAM_FRONT/a.jpg',
    ]
    dataset.modality = dict(use_lidar=False, use_camera=True)
    assert sensor_files(frame('a'), dataset) == [root / 'samples/CAM_FRONT/a.jpg']


@pytest.mark.parametrize(
    'missing',
    ['samples/LIDAR_TOP/b.bin', 'sweeps/LIDAR_TOP/b-1.bin', 'samples/CAM_FRONT/a.jpg'],
)
def test_a_missing_sensor_file_is_named_once(root, missing):
    (root / missing).unlink()
    problem = the_problem(config(root))
    assert f"names '{root / missing}', which does not exist" in problem.what
    assert 'data_root' in problem.remedy


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
