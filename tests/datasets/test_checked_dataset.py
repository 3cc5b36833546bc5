"""Bad frames of a dataset are named, or left out of a training and counted."""

import copy
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet3d.registry import DATASETS
from mmengine.dataset import ConcatDataset, pseudo_collate
from torch.utils.data import DataLoader

from cmt_bias.datasets.nuscenes_dataset import BadFrameError, skipped_frames

from ..visualization.tiny_dataset import dataset_config, write_tiny_dataset

NUM_FRAMES = 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny dataset, with files of its own for each frame, so that one can be damaged."""
    write_tiny_dataset(tmp_path)
    infos = pickle.loads((tmp_path / 'infos.pkl').read_bytes())
    infos = copy.deepcopy(infos)
    for number, frame in enumerate(infos['data_list']):
        frame['lidar_points'] = dict(frame['lidar_points'], lidar_path=f'{number}.bin')
        shutil.copy(tmp_path / 'lidar.bin', tmp_path / f'{number}.bin')
        front = dict(frame['images']['CAM_FRONT'], img_path=f'{number}.png')
        shutil.copy(tmp_path / 'CAM_FRONT.png', tmp_path / f'{number}.png')
        frame['images'] = dict(frame['images'], CAM_FRONT=front)
    (tmp_path / 'infos.pkl').write_bytes(pickle.dumps(infos))
    return tmp_path


def dataset(folder: Path, training: bool = True, **settings):
    config = dataset_config(folder, training)
    return DATASETS.build(dict(config, type='CheckedNuScenesDataset', **settings))


def put_nan(path: Path) -> None:
    points = np.fromfile(path, np.float32).reshape(-1, 5)
    points[1, 3] = np.nan
    points.tofile(path)


DAMAGES = {
    '1.bin': {
        'is cut off': lambda path: path.write_bytes(path.read_bytes()[:-7]),
        'NaN or infinite values in 1 of 50 points': put_nan,
        'cannot be read: No such file': Path.unlink,
    },
    '1.png': {
        'is empty': lambda path: path.write_bytes(b''),
        'not an image': lambda path: path.write_bytes(b'text'),
    },
}
CASES = [(name, fault) for name, faults in DAMAGES.items() for fault in faults]


@pytest.mark.parametrize(('name', 'fault'), CASES)
@pytest.mark.parametrize('training', [True, False])
def test_a_bad_frame_is_named_with_its_token_file_and_fault(folder, name, fault, training):
    DAMAGES[name][fault](folder / name)
    frames = dataset(folder, training, skip_bad_frames=not training)  # no skipping in tests
    assert frames[0] is not None
    with pytest.raises(BadFrameError) as stop:
        frames[1]
    message = str(stop.value)
    assert 'frame 1 (token token1)' in message
    assert f"'{folder / name}'" in message
    assert fault in message
    assert 'skip_bad_frames=True' in message


def test_bad_frames_are_left_out_of_a_training_and_counted_across_processes(folder):
    DAMAGES['1.bin']['is cut off'](folder / '1.bin')
    DAMAGES['1.png']['is empty'](folder / '2.png')
    frames = ConcatDataset([dataset(folder, skip_bad_frames=True)])
    loader = DataLoader(frames, num_workers=2, collate_fn=pseudo_collate)
    drawn = [batch['data_samples'][0].sample_idx for batch in loader]
    assert drawn == [0] * NUM_FRAMES
    assert skipped_frames(loader) == 2
    assert frames.datasets[0].skipped.tolist() == [False, True, True]


def test_another_error_than_of_a_file_is_left_as_it_is(folder):
    frames = dataset(folder, skip_bad_frames=True)
    frames.pipeline.transforms.append(lambda results: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        frames[0]


def test_other_dataloaders_have_left_nothing_out():
    assert skipped_frames(None) == 0
    assert skipped_frames(DataLoader([1, 2])) == 0


def test_good_frames_are_those_of_mmdet3d(folder):
    cv2.imwrite(str(folder / '1.png'), np.full((40, 64, 3), 7, np.uint8))
    ours = dataset(folder)[1]
    theirs = DATASETS.build(dataset_config(folder, training=True))[1]
    assert ours['inputs']['img'].equal(theirs['inputs']['img'])
    assert ours['inputs']['points'].equal(theirs['inputs']['points'])
