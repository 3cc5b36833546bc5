import pickle
from collections import Counter

import numpy as np
import pytest
from mmdet3d.datasets import CBGSDataset, NuScenesDataset

from cmt_bias.datasets import AllBoxesNuScenesDataset

STORED = NuScenesDataset.METAINFO['classes']
CLASSES = ('pedestrian', 'car', 'bus')  # not in the order of the info file
# Each frame: class and number of LiDAR points of its boxes; None is of no class.
FRAMES = [
    [('car', 5), ('car', 0)],
    [('car', 5), ('pedestrian', 0)],
    [('pedestrian', 3), ('bus', 0), (None, 9)],
    [('truck', 4)],
]


def build(cls, folder):
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
    )


@pytest.mark.parametrize(
    ('cls', 'counts'),
    [
        (AllBoxesNuScenesDataset, dict(car=2, pedestrian=2, bus=1)),
        (NuScenesDataset, dict(car=2, pedestrian=1)),  # if this fails, mmdet3d counts as it did
    ],
)
def test_boxes_without_points_count_for_class_balancing(tmp_path, cls, counts):
    dataset = build(cls, tmp_path)
    classes = [dataset.get_cat_ids(index) - {-1} for index in range(len(dataset))]
    assert Counter(CLASSES[label] for found in classes for label in found) == counts


def test_a_class_is_drawn_from_frames_where_only_hidden_boxes_have_it(tmp_path):
    np.random.seed(0)
    balanced = CBGSDataset(build(AllBoxesNuScenesDataset, tmp_path))
    # 5 frame-class pairs, a third of them for each class
    assert len(balanced) == sum(int(n * (1 / 3) / (n / 5)) for n in (2, 2, 1))
    assert 2 in balanced.sample_indices


def test_training_boxes_are_still_those_with_points(tmp_path):
    dataset = build(AllBoxesNuScenesDataset, tmp_path)
    assert [len(dataset.get_ann_info(i)['gt_labels_3d']) for i in range(4)] == [1, 1, 2, 1]
