"""Bad frames are named, or left out of a training and counted; all boxes count for balance."""

import copy
import pickle
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet3d.datasets import CBGSDataset, NuScenesDataset
from mmdet3d.datasets.transforms import LoadPointsFromFile
from mmdet3d.registry import DATASETS, TRANSFORMS
from mmengine.dataset import ConcatDataset, pseudo_collate
from torch.utils.data import DataLoader

from cmt_bias.datasets import AllBoxesNuScenesDataset, LoadCalibratedMultiViewImages
from cmt_bias.datasets.nuscenes_dataset import (
    BadFrameError,
    CheckedNuScenesDataset,
    skipped_frames,
)

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


@pytest.mark.parametrize('values', [4, 6])
def test_files_with_another_number_of_values_a_point_are_not_taken_for_damaged(folder, values):
    for number in range(NUM_FRAMES):
        np.zeros((51, values), np.float32).tofile(folder / f'{number}.bin')
    config = dataset_config(folder, training=True)
    config['pipeline'][0].update(load_dim=values, use_dim=4)
    frames = DATASETS.build(dict(config, type='CheckedNuScenesDataset', skip_bad_frames=True))
    assert frames[1]['inputs']['points'].shape == (51, 4)
    frames.pipeline.transforms.append(lambda results: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        frames[1]
    (folder / '1.bin').write_bytes(bytes(4 * values + 1))
    with pytest.raises(BadFrameError, match=f'no whole number of points of {4 * values}'):
        frames.skip_bad_frames = False
        frames[1]


def test_bad_frames_are_left_out_of_a_training_and_counted_across_processes(folder):
    DAMAGES['1.bin']['is cut off'](folder / '1.bin')
    DAMAGES['1.png']['is empty'](folder / '2.png')
    frames = ConcatDataset([dataset(folder, skip_bad_frames=True)])
    loader = DataLoader(frames, num_workers=2, collate_fn=pseudo_collate)
    drawn = [batch['data_samples'][0].sample_idx for batch in loader]
    assert drawn == [0] * NUM_FRAMES
    assert skipped_frames(loader) == 2
    assert frames.datasets[0].skipped.tolist() == [False, True, True]


@TRANSFORMS.register_module()
class ReadCloud(LoadPointsFromFile):
    """Of the user, with a name that says nothing to this package."""

    def __init__(self, load_dim: int = 5) -> None:
        super().__init__('LIDAR', load_dim, use_dim=4)


@TRANSFORMS.register_module()
class ReadPictures(LoadCalibratedMultiViewImages):
    """As above."""


def with_loaders_of_the_user(folder: Path, places: tuple[int, ...], **settings):
    """A dataset of which these of the two loaders have names of their own."""
    config = dataset_config(folder, training=True)
    loaders = [dict(type='ReadCloud'), dict(type='ReadPictures')]
    for place in places:
        config['pipeline'][place] = loaders[place]
    return DATASETS.build(dict(config, type='CheckedNuScenesDataset', **settings))


@pytest.mark.parametrize('places', [(0,), (1,), (0, 1)])
@pytest.mark.parametrize(
    ('name', 'fault'), [('1.bin', 'is cut off'), ('1.png', 'is empty')], ids=['cloud', 'image']
)
def test_bad_files_of_loaders_of_whatever_name_are_named_and_left_out(folder, name, fault, places):
    DAMAGES[name][fault](folder / name)
    with pytest.raises(BadFrameError, match=f'(?s){folder / name}.*{fault}'):
        with_loaders_of_the_user(folder, places)[1]
    frames = with_loaders_of_the_user(folder, places, skip_bad_frames=True)
    assert frames[1] is not None
    assert frames.skipped.tolist() == [False, True, False]


def test_points_of_a_loader_of_whatever_name_have_as_many_values_as_it_reads(folder):
    np.zeros((51, 4), np.float32).tofile(folder / '1.bin')
    frames = with_loaders_of_the_user(folder, (0,))
    frames.pipeline.transforms[0] = ReadCloud(load_dim=4)
    frames.pipeline.transforms.append(lambda results: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        frames[1]


def test_sweeps_that_the_pipeline_does_not_read_are_not_blamed(folder):
    infos = pickle.loads((folder / 'infos.pkl').read_bytes())
    infos['data_list'][1]['lidar_sweeps'] = [dict(lidar_points=dict(lidar_path='gone.bin'))]
    (folder / 'infos.pkl').write_bytes(pickle.dumps(infos))
    (folder / '1.png').write_bytes(b'')
    with pytest.raises(BadFrameError, match=r'1\.png'):
        dataset(folder, data_prefix=dict(pts='', img='', sweeps=''))[1]


def test_settings_may_be_given_by_position_as_to_mmdet3d(folder):
    config = dataset_config(folder, training=True)
    first = [config.pop(key) for key in ('data_root', 'ann_file', 'pipeline')]
    DAMAGES['1.bin']['is cut off'](folder / '1.bin')
    del config['type']
    with pytest.raises(BadFrameError, match=r"1\.bin' is cut off"):
        CheckedNuScenesDataset(*first, **config)[1]


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


STORED = NuScenesDataset.METAINFO['classes']
CLASSES = ('pedestrian', 'car', 'bus')  # not in the order of the info file
# Each frame: class and number of LiDAR points of its boxes; None is of no class.
FRAMES = [
    [('car', 5), ('car', 0)],
    [('car', 5), ('pedestrian', 0)],
    [('pedestrian', 3), ('bus', 0), (None, 9)],
    [('truck', 4)],
]


def balanced_dataset(cls, folder, **settings):
    frames = []
    for boxes in FRAMES:
        instances = [
            dict(
                bbox_3d=[1.0, 2, 0, 4, 2, 2, 0],
                bbox_label_3d=-1 if name is None else STORED.index(name),
                bbox_label=-1 if name is None else STORED.index(name),
                velocity=[0.0, 0.0],
                num_lidar_pts=points,
                bbox_3d_isvalid=points > 0,
            )
            for name, points in boxes
        ]
        frames.append(
            dict(lidar_points=dict(lidar_path='a.bin', num_pts_feats=5), instances=instances)
        )
    infos = dict(metainfo=dict(), data_list=frames)
    (folder / 'infos.pkl').write_bytes(pickle.dumps(infos))
    return cls(
        data_root=str(folder),
        ann_file='infos.pkl',
        metainfo=dict(classes=CLASSES),
        modality=dict(use_lidar=True, use_camera=False),
        **settings,
    )


@pytest.mark.parametrize(
    ('cls', 'counts'),
    [
        (AllBoxesNuScenesDataset, dict(car=2, pedestrian=2, bus=1)),
        (NuScenesDataset, dict(car=2, pedestrian=1)),  # if this fails, mmdet3d counts as it did
    ],
)
def test_boxes_without_points_count_for_class_balancing(tmp_path, cls, counts):
    dataset = balanced_dataset(cls, tmp_path)
    classes = [dataset.get_cat_ids(index) - {-1} for index in range(len(dataset))]
    assert Counter(CLASSES[label] for found in classes for label in found) == counts


def test_with_the_valid_flag_the_valid_boxes_count(tmp_path):
    dataset = balanced_dataset(AllBoxesNuScenesDataset, tmp_path, use_valid_flag=True)
    classes = [dataset.get_cat_ids(index) - {-1} for index in range(len(dataset))]
    expected = [set(dataset.get_ann_info(i)['gt_labels_3d']) - {-1} for i in range(len(dataset))]
    assert classes == expected == [{1}, {1}, {0}, set()]


def test_a_class_is_drawn_from_frames_where_only_hidden_boxes_have_it(tmp_path):
    np.random.seed(0)
    balanced = CBGSDataset(balanced_dataset(AllBoxesNuScenesDataset, tmp_path))
    # 5 frame-class pairs, a third of them for each class
    assert len(balanced) == sum(int(n * (1 / 3) / (n / 5)) for n in (2, 2, 1))
    assert 2 in balanced.sample_indices


def test_training_boxes_are_still_those_with_points(tmp_path):
    dataset = balanced_dataset(AllBoxesNuScenesDataset, tmp_path)
    assert [len(dataset.get_ann_info(i)['gt_labels_3d']) for i in range(4)] == [1, 1, 2, 1]
