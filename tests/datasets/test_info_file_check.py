"""Annotation files of another format are recognised and the converter is named."""

import pickle
from pathlib import Path

import pytest

from cmt_bias.datasets import check_data_folders, check_info_file

SAMPLE = dict(
    sample_idx=0,
    lidar_points=dict(lidar_path='a.bin', num_pts_feats=5),
    images=dict(CAM_FRONT=dict(img_path='a.jpg', cam2img=[], lidar2cam=[])),
    instances=[],
)
CURRENT = dict(metainfo=dict(info_version='1.1'), data_list=[SAMPLE])


def written(folder: Path, content: object) -> str:
    path = folder / 'infos_train.pkl'
    path.write_bytes(pickle.dumps(content))
    return str(path)


def test_a_current_info_file_has_no_problem(tmp_path):
    assert check_info_file(written(tmp_path, CURRENT)) == []


@pytest.mark.parametrize('content', [[SAMPLE], dict(infos=[SAMPLE], metadata={})])
def test_the_old_formats_are_recognised_and_the_converter_named(tmp_path, content):
    path = written(tmp_path, content)
    (problem,) = check_info_file(path)
    assert path in problem.what and 'old format' in problem.what
    assert 'tools/dataset_converters/update_infos_to_v2.py' in problem.remedy
    assert 'tools/create_data.py' in problem.remedy


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (dict(data_list=[SAMPLE]), "no 'metainfo'"),
        (dict(metainfo={}, data_list=[]), 'no sample'),
        (dict(car=[]), 'no info file'),
        (7, 'no info file'),
        (
            dict(metainfo={}, data_list=[dict(SAMPLE, images=dict(CAM_BACK=dict(img_path='')))]),
            'images.CAM_BACK.cam2img, images.CAM_BACK.lidar2cam',
        ),
        (dict(metainfo={}, data_list=[dict(sample_idx=0)]), 'lidar_points, images'),
    ],
)
def test_what_is_no_info_file_is_told_with_what_it_lacks(tmp_path, content, message):
    path = written(tmp_path, content)
    (problem,) = check_info_file(path)
    assert message in problem.what and path in problem.what
    assert 'tools/create_data.py' in problem.remedy


def test_a_missing_file_and_a_broken_one_are_told(tmp_path):
    (problem,) = check_info_file(str(tmp_path / 'nothing.pkl'))
    assert 'does not exist' in problem.what and 'create_data.py' in problem.remedy
    broken = tmp_path / 'broken.pkl'
    broken.write_bytes(pickle.dumps(CURRENT)[:40])
    (problem,) = check_info_file(str(broken))
    assert 'cannot be read' in problem.what


def test_missing_data_folders_are_named(tmp_path):
    (tmp_path / 'samples').mkdir()
    prefix = dict(pts='samples', sweeps='sweeps', CAM_FRONT='samples')
    (problem,) = check_data_folders(str(tmp_path), prefix)
    assert 'sweeps' in problem.what and 'data_prefix' in problem.remedy
    (problem,) = check_data_folders(str(tmp_path / 'nowhere'), prefix)
    assert 'nowhere' in problem.what and 'create_synthetic_nuscenes.py' in problem.remedy
    (tmp_path / 'sweeps').mkdir()
    assert check_data_folders(str(tmp_path), prefix) == []
