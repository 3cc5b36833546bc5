"""Which files a frame is read from, and what is said of files that cannot be used."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet3d.datasets.transforms import LoadPointsFromFile
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import LiDARPoints

from cmt_bias.datasets.data_files import (
    SensorFile,
    fault_of_file,
    faults_of_files,
    sensor_files,
    used_data,
)

BOTH = dict(use_lidar=True, use_camera=True)
POINTS = dict(type='LoadPointsFromFile', load_dim=4)
SWEEPS = dict(type='LoadPointsFromMultiSweeps', sweeps_num=2, test_mode=True)
IMAGES = dict(type='LoadCalibratedMultiViewImages')


@pytest.mark.parametrize(
    ('dataset', 'used'),
    [
        (dict(modality=BOTH, pipeline=[POINTS, SWEEPS, IMAGES]), (True, 2, True)),
        (dict(modality=BOTH, pipeline=[POINTS]), (True, 0, False)),
        (dict(modality=BOTH, pipeline=[dict(type='BEVLoadMultiViewImageFromFiles')]), None),
        (
            dict(modality=BOTH, pipeline=[dict(type='LoadMultiViewImageFromFiles')]),
            (False, 0, True),
        ),
        (
            dict(pipeline=[POINTS, dict(type='LoadAlignedSweeps', test_mode=True), IMAGES]),
            (True, 10, False),
        ),
        (
            dict(
                modality=dict(use_camera=True),
                pipeline=[dict(type='TestTimeAug', transforms=[[IMAGES], [POINTS]])],
            ),
            (False, 0, True),
        ),
        (dict(modality=BOTH), (True, 10, True)),
        (
            dict(modality=BOTH, pipeline=[dict(type='mmdet3d.LoadPointsFromFile')]),
            (True, 0, False),
        ),
        (dict(modality=BOTH, pipeline=[dict(type=LoadPointsFromFile)]), (True, 0, False)),
    ],
)
def test_what_a_dataset_loads_is_what_modality_and_pipeline_both_have(dataset, used):
    found = used_data(dataset)
    expected = used or (False, 0, False)  # a loader of another name is not known to need files
    assert (found.points, found.sweeps, found.images) == expected


@pytest.mark.parametrize('sweeps_num', [0, 1, 3, 9])
@pytest.mark.parametrize('test_mode', [True, False])
def test_every_sweep_that_the_loader_may_read_is_looked_at(monkeypatch, sweeps_num, test_mode):
    step = dict(type='LoadAlignedSweeps', sweeps_num=sweeps_num, test_mode=test_mode, use_dim=5)
    sweeps = [
        dict(
            timestamp=-float(number),
            lidar_points=dict(lidar_path=f'sweeps/{number}.bin', lidar2sensor=np.eye(4)),
        )
        for number in range(6)
    ]
    read = set()

    def remember(path: str) -> np.ndarray:
        read.add(Path(path).name)
        return np.zeros((2, 5), np.float32)

    loader = TRANSFORMS.build(step)
    monkeypatch.setattr(loader, '_load_points', remember)
    np.random.seed(0)
    for _ in range(40):
        points = LiDARPoints(torch.zeros(2, 5), points_dim=5)
        loader(dict(points=points, lidar_sweeps=sweeps, timestamp=0.0))
    frame = dict(lidar_points=dict(lidar_path='a.bin'), lidar_sweeps=sweeps)
    listed = sensor_files(frame, used_data(dict(pipeline=[POINTS, step])))
    assert {file.path.name for file in listed} == {'a.bin', *read}


def test_the_files_of_a_frame_are_those_that_its_pipeline_reads():
    frame = dict(
        lidar_points=dict(lidar_path='a.bin'),
        lidar_sweeps=[dict(lidar_points=dict(lidar_path=f'{number}.bin')) for number in range(3)],
        images=dict(CAM_FRONT=dict(img_path='f.jpg'), CAM_BACK=dict(img_path='b.jpg')),
    )
    dataset = dict(modality=BOTH, pipeline=[POINTS, SWEEPS, IMAGES])
    assert sensor_files(frame, used_data(dataset)) == [
        SensorFile(Path('a.bin'), 4),
        SensorFile(Path('0.bin'), 4),
        SensorFile(Path('1.bin'), 4),
        SensorFile(Path('f.jpg')),
        SensorFile(Path('b.jpg')),
    ]
    dataset['modality'] = dict(use_camera=True)
    names = [file.path.name for file in sensor_files(frame, used_data(dataset))]
    assert names == ['f.jpg', 'b.jpg']


def cloud(path: Path, change: float = 0.0, cut: int = 0) -> SensorFile:
    points = np.zeros((6, 5), np.float32)
    points[3, 2] = points[4, 4] = change
    path.write_bytes(points.tobytes()[: points.nbytes - cut])
    return SensorFile(path, 5)


def image(path: Path, shape: tuple[int, ...] = (90, 160, 3), cut: int = 0) -> SensorFile:
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    _, encoded = cv2.imencode(path.suffix, pixels)
    path.write_bytes(encoded.tobytes()[: len(encoded) - cut])
    return SensorFile(path)


def test_good_files_have_no_fault(tmp_path):
    (tmp_path / 'empty.bin').touch()
    files = [
        cloud(tmp_path / 'a.bin'),
        SensorFile(tmp_path / 'empty.bin', 5),  # a sensor without a return
        image(tmp_path / 'a.jpg'),
        image(tmp_path / 'a.png'),
    ]
    assert faults_of_files(files) == {}


def test_every_kind_of_bad_file_is_told_in_plain_words(tmp_path):
    bad = {
        'cannot be read: No such file or directory': SensorFile(tmp_path / 'none.bin', 5),
        'is cut off: 113 bytes are no whole number of points of 20': cloud(
            tmp_path / 'cut.bin', cut=7
        ),
        'has NaN or infinite values in 2 of 6 points': cloud(tmp_path / 'nan.bin', np.nan),
        'has 1 colour channels instead of 3': image(tmp_path / 'grey.jpg', (90, 160)),
        'has 4 colour channels instead of 3': image(tmp_path / 'alpha.png', (90, 160, 4)),
    }
    found = faults_of_files(bad.values())
    assert found == {file.path: fault for fault, file in bad.items()}
    assert 'infinite values' in fault_of_file(cloud(tmp_path / 'inf.bin', -np.inf))
    cut = image(tmp_path / 'cut.jpg', cut=300)  # OpenCV fills what is missing with grey
    assert 'the end of the JPEG is missing' in fault_of_file(cut)
    for content, fault in ((b'', 'is empty'), (b'text', '(4 bytes) is not an image')):
        cut.path.write_bytes(content)
        assert fault_of_file(cut).startswith(fault)


def test_a_file_of_several_frames_is_read_once(tmp_path, monkeypatch):
    reads = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, 'read_bytes', lambda path: reads.append(path) or read(path))
    file = cloud(tmp_path / 'a.bin')
    faults_of_files([file, SensorFile(file.path, 5)])
    assert reads == [file.path]
