"""Info files of another format, or with frames that cannot be trained on, are told apart."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from mmdet3d.datasets import NuScenesDataset

from cmt_bias.datasets.data_files import UsedData, check_frames, read_info_file
from cmt_bias.problem import Problem

NAN, INF = float('nan'), float('inf')

SAMPLE = dict(
    sample_idx=0,
    lidar_points=dict(lidar_path='a.bin', num_pts_feats=5),
    images=dict(CAM_FRONT=dict(img_path='a.jpg', cam2img=[[1.0]], lidar2cam=[[1.0]])),
    lidar_sweeps=[dict(lidar_points=dict(lidar_path='b.bin', lidar2sensor=[[1.0]]))],
    token='first',
    instances=[
        dict(bbox_3d=[0, 9, 0, 4, 2, 1, 0], bbox_label_3d=2, velocity=[0, 1], num_lidar_pts=3),
        dict(bbox_3d=[9, 9, 0, 4, 2, 1, 0], bbox_label_3d=-1, velocity=[NAN] * 2, num_lidar_pts=0),
    ],
)
CURRENT = dict(metainfo=dict(info_version='1.1'), data_list=[SAMPLE])
USED = UsedData(points=True, sweeps=10, images=True)


def check_info_file(path: str, used: UsedData = USED) -> list[Problem]:
    infos = read_info_file(path)
    return [infos] if isinstance(infos, Problem) else check_frames(infos, path, used)


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


def set_in(*keys: object, value: object) -> Callable[[dict], None]:
    """Something that sets an entry deep inside a sample."""

    def change(sample: dict) -> None:
        for key in keys[:-1]:
            sample = sample[key]
        sample[keys[-1]] = value

    return change


BAD = {
    'cam2img of a camera': set_in('images', 'CAM_FRONT', 'cam2img', value=[[NAN]]),
    'lidar2cam of a camera': set_in('images', 'CAM_FRONT', 'lidar2cam', value=[[INF]]),
    'lidar2sensor of a sweep': set_in(
        'lidar_sweeps', 0, 'lidar_points', 'lidar2sensor', value=[[NAN]]
    ),
    'no lidar_sweeps.lidar_points.lidar2sensor': lambda sample: sample['lidar_sweeps'][0][
        'lidar_points'
    ].pop('lidar2sensor'),
    'labels [99]': set_in('instances', 0, 'bbox_label_3d', value=99),
    'no lidar_points.num_pts_feats': lambda sample: sample['lidar_points'].pop('num_pts_feats'),
    'without velocity': lambda sample: sample['instances'][1].pop('velocity'),
    'without num_lidar_pts': lambda sample: sample['instances'][0].pop('num_lidar_pts'),
    'infinite or half unknown values in velocity': set_in(
        'instances', 0, 'velocity', value=[INF, 0.0]
    ),
    'half unknown': set_in('instances', 0, 'velocity', value=[0.0, NAN]),
    'size that is not positive': set_in('instances', 0, 'bbox_3d', 3, value=-4.0),
    'NaN or infinite values in bbox_3d': set_in('instances', 0, 'bbox_3d', 6, value=NAN),
    'not 7 numbers': set_in('instances', 0, 'bbox_3d', value=[1.0, 2.0]),
    'no images.CAM_FRONT.cam2img': lambda sample: sample['images']['CAM_FRONT'].pop('cam2img'),
}


@pytest.mark.parametrize('fault', BAD)
def test_a_frame_that_cannot_be_trained_on_is_named_with_its_fault(tmp_path, fault):
    samples = [copy.deepcopy(SAMPLE) for _ in range(3)]
    BAD[fault](samples[1])
    samples[1]['token'] = 'the-bad-one'
    (problem,) = check_info_file(
        written(tmp_path, dict(metainfo={}, data_list=samples)), used=USED
    )
    assert fault in problem.what
    assert problem.what.endswith(' in 1 of 3 frames: the-bad-one')


@pytest.mark.parametrize(
    ('used', 'change'),
    [
        (UsedData(images=False), BAD['cam2img of a camera']),
        (UsedData(images=False), lambda sample: sample.pop('images')),
        (UsedData(points=False), lambda sample: sample.pop('lidar_points')),
        (UsedData(sweeps=0), BAD['lidar2sensor of a sweep']),
        (UsedData(sweeps=0), BAD['no lidar_sweeps.lidar_points.lidar2sensor']),
        (UsedData(annotation_keys=('bbox_3d', 'bbox_label_3d')), BAD['without velocity']),
    ],
)
def test_what_is_not_used_is_not_required(tmp_path, used, change):
    sample = copy.deepcopy(SAMPLE)
    change(sample)
    if 'velocity' not in used.annotation_keys:
        del sample['instances'][0]['velocity']
    assert check_info_file(written(tmp_path, dict(metainfo={}, data_list=[sample])), used) == []


def test_classes_in_another_order_are_refused(tmp_path):
    """mmdet3d takes labels by their place in its own list, whatever the file says they mean."""
    names = NuScenesDataset.METAINFO['classes']
    content = dict(CURRENT, metainfo=dict(categories={n: i for i, n in enumerate(names)}))
    assert check_info_file(written(tmp_path, content)) == []
    content['metainfo']['categories'].update(car=1, truck=0)
    (problem,) = check_info_file(written(tmp_path, content))
    assert "{'car': 1, 'truck': 0}" in problem.what


def test_a_missing_file_and_a_broken_one_are_told(tmp_path):
    (problem,) = check_info_file(str(tmp_path / 'nothing.pkl'))
    assert 'does not exist' in problem.what and 'create_data.py' in problem.remedy
    broken = tmp_path / 'broken.pkl'
    broken.write_bytes(pickle.dumps(CURRENT)[:40])
    (problem,) = check_info_file(str(broken))
    assert 'cannot be read' in problem.what
