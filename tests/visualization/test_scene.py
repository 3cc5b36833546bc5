"""Samples of a real pipeline, and what of them reaches the picture."""

import numpy as np
import pytest
import torch
from mmdet3d.registry import DATASETS
from mmdet3d.structures import CameraInstance3DBoxes, Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from cmt_bias.visualization import scene_from_sample

from .tiny_dataset import CLASSES, HEIGHT, WIDTH, dataset_config

pytestmark = pytest.mark.usefixtures('mmdet3d_scope')

HALF_SIZE = dict(
    type='ResizeCropFlipImage',
    data_aug_conf=dict(
        resize_lim=(0.5, 0.5),
        final_dim=(HEIGHT // 2, WIDTH // 2),
        bot_pct_lim=(0.0, 0.0),
        rot_lim=(0.0, 0.0),
        H=HEIGHT,
        W=WIDTH,
        rand_flip=False,
    ),
    training=False,
)
TURN = dict(
    type='GlobalRotScaleTransAll',
    rot_range=[0.7, 0.7],
    scale_ratio_range=[1.1, 1.1],
    translation_std=[0.5, 0.5, 0.5],
)


def example(folder, **settings):
    return DATASETS.build(dataset_config(folder, **settings)).prepare_data(0)


def scene_of(example, **settings):
    return scene_from_sample(example['inputs'], example['data_samples'], CLASSES, **settings)


def test_images_are_rgb_and_named_and_annotations_of_unknown_classes_are_left_out(tiny_folder):
    scene = scene_of(example(tiny_folder))
    assert [view.name for view in scene.cameras] == ['CAM_FRONT', 'CAM_BACK']
    assert scene.cameras[0].image.shape == (HEIGHT, WIDTH, 3)
    assert scene.cameras[0].image[0, 0].tolist() == [0, 0, 255]
    assert scene.cameras[1].image[0, 0].tolist() == [255, 0, 0]
    assert scene.points.shape == (50, 3)
    assert scene.ground_truth.labels_3d.tolist() == [0]
    assert scene.detections is None
    expected = [0.0, 10.0, -0.75, 4.0, 2.0, 1.5, np.pi / 2]
    np.testing.assert_allclose(scene.ground_truth.bboxes_3d.tensor[0, :7], expected, atol=1e-6)


def test_box_is_projected_by_the_definition(tiny_folder):
    """The car's rear lower edge: 8 m ahead, 1 m to both sides, 0.75 m below the camera."""
    scene = scene_of(example(tiny_folder))
    front, back = (view.project_boxes(scene.ground_truth.bboxes_3d) for view in scene.cameras)
    segments, visible = front
    assert visible.all()
    assert not back[1].any()
    lowest = segments[0][np.argmax(segments[0, :, :, 1].min(axis=1))]
    expected = [[WIDTH / 2 - 5, HEIGHT / 2 + 3.75], [WIDTH / 2 + 5, HEIGHT / 2 + 3.75]]
    np.testing.assert_allclose(sorted(lowest.tolist()), expected, atol=1e-4)


def test_augmentation_moves_image_and_box_together(tiny_folder):
    """The same pixels, halved: turning the scene is seen in the LiDAR frame alone."""
    plain = scene_of(example(tiny_folder, training=True))
    moved = scene_of(example(tiny_folder, training=True, transforms=(TURN, HALF_SIZE)))
    before, after = (
        scene.cameras[0].project_boxes(scene.ground_truth.bboxes_3d) for scene in (plain, moved)
    )
    turned = moved.ground_truth.bboxes_3d.yaw - plain.ground_truth.bboxes_3d.yaw
    assert abs(turned[0]) > 0.5
    assert moved.cameras[0].image.shape[:2] == (HEIGHT // 2, WIDTH // 2)
    np.testing.assert_allclose(after[0], before[0] / 2, atol=0.3)


def test_masked_cameras_are_shown_black(tiny_folder):
    mask = dict(type='ModalMask3D', mode='test', mask_modal='image')
    scene = scene_of(example(tiny_folder, transforms=(mask,)))
    assert not any(view.image.any() for view in scene.cameras)


def test_sample_without_camera_or_lidar_has_none(tiny_folder):
    given = example(tiny_folder)
    given['inputs'] = {}
    scene = scene_of(given)
    assert scene.cameras == []
    assert scene.points is None


def test_detections_are_read(tiny_folder):
    given = example(tiny_folder)
    given['data_samples'].pred_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(torch.arange(18.0).reshape(2, 9), box_dim=9),
        scores_3d=torch.tensor([0.75, 0.25]),
        labels_3d=torch.tensor([1, 0]),
    )
    found = scene_of(given).detections
    assert found.bboxes_3d.tensor.tolist() == np.arange(18.0).reshape(2, 9).tolist()
    assert found.scores_3d.tolist() == [0.75, 0.25]
    assert found.labels_3d.tolist() == [1, 0]


def test_detections_below_the_threshold_are_left_out(tiny_folder):
    given = example(tiny_folder)
    given['data_samples'].pred_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(torch.zeros(3, 9), box_dim=9),
        scores_3d=torch.tensor([0.9, 0.2, 0.3]),
        labels_3d=torch.tensor([0, 1, 0]),
    )
    kept = scene_of(given).with_scores_from(0.3).detections
    np.testing.assert_allclose(kept.scores_3d, [0.3, 0.9])
    assert kept.labels_3d.tolist() == [0, 0]


@pytest.mark.parametrize('kind', ['gt_instances_3d', 'pred_instances_3d'])
def test_boxes_of_another_frame_are_refused(tiny_folder, kind):
    given = example(tiny_folder)
    boxes = InstanceData(
        bboxes_3d=CameraInstance3DBoxes(torch.zeros(1, 7)),
        labels_3d=torch.zeros(1),
        scores_3d=torch.ones(1),
    )
    given['data_samples'].set_field(boxes, kind)
    with pytest.raises(TypeError, match='LiDARInstance3DBoxes, got CameraInstance3DBoxes'):
        scene_of(given)


def test_images_and_matrices_of_other_numbers_do_not_belong_together(tiny_folder):
    given = example(tiny_folder)
    given['inputs']['img'] = given['inputs']['img'][[0, 1, 1]]
    with pytest.raises(ValueError, match='3 images, 2 lidar2img matrices and 2 camera names do'):
        scene_of(given)


def test_missing_matrices_are_named(tiny_folder):
    given = example(tiny_folder)
    with pytest.raises(ValueError, match=r'lidar2img.*meta_keys'):
        scene_from_sample(given['inputs'], Det3DDataSample(), CLASSES)
