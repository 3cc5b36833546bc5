"""Whole pipelines: with mmdet3d's own transforms, from files to what the model gets."""

from collections.abc import Callable
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmdet3d.datasets import NuScenesDataset
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.ops import box_np_ops
from mmengine.dataset import Compose

from cmt_bias.datasets import LoadCalibratedMultiViewImages

RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
CLASSES = ('car', 'pedestrian')
SHARED = Path(__file__).resolve().parents[3] / 'shared'
REAL_FRAME = SHARED / 'real_frame'


def built(*steps: dict) -> Compose:
    return Compose([TRANSFORMS.build(step) for step in steps])


def training_steps(keys: tuple[str, ...]) -> list[dict]:
    """Everything between loading and the model, for those inputs that ``keys`` names."""
    filters = [dict(type='PointsRangeFilter', point_cloud_range=RANGE), dict(type='PointShuffle')]
    image_conf = dict(resize_lim=(0.5, 0.7), final_dim=(32, 64), rand_flip=True)
    images = [dict(type='ResizeCropFlipImage', data_aug_conf=image_conf)]
    return [
        dict(
            type='GlobalRotScaleTransAll',
            rot_range=[-0.785, 0.785],
            scale_ratio_range=[0.9, 1.1],
            translation_std=[0.5, 0.5, 0.5],
        ),
        dict(
            type='CustomRandomFlip3D',
            flip_ratio_bev_horizontal=0.5,
            flip_ratio_bev_vertical=0.5,
        ),
        *(filters if 'points' in keys else []),
        dict(type='ObjectRangeFilter', point_cloud_range=RANGE),
        dict(type='ObjectNameFilter', classes=CLASSES),
        *(images if 'img' in keys else []),
        dict(type='Pack3DDetInputs', keys=(*keys, 'gt_bboxes_3d', 'gt_labels_3d')),
    ]


@pytest.mark.parametrize('num_boxes', [0, 1, 5])
@pytest.mark.parametrize('keys', [('points', 'img'), ('points',), ('img',)])
def test_every_set_of_sensors_and_any_number_of_boxes_gets_through(make_sample, keys, num_boxes):
    np.random.seed(0)  # no point leaves the range
    sample = make_sample(num_boxes=num_boxes)
    if 'points' not in keys:
        del sample['points']
    if 'img' not in keys:
        for key in ('img', 'lidar2img', 'lidar2cam', 'cam2img'):
            del sample[key]
    packed = built(*training_steps(keys))(sample)
    assert set(packed['inputs']) == set(keys)
    if 'img' in keys:
        assert packed['inputs']['img'].shape == (3, 3, 32, 64)
        assert packed['inputs']['img'].dtype == torch.uint8
    if 'points' in keys:
        assert packed['inputs']['points'].shape == (200, 5)
    truth = packed['data_samples'].gt_instances_3d
    assert truth.bboxes_3d.tensor.shape == (num_boxes, 9)
    assert truth.labels_3d.shape == (num_boxes,) and truth.labels_3d.dtype == torch.int64


def test_an_empty_cloud_gets_through(make_sample):
    packed = built(*training_steps(('points', 'img')))(make_sample(num_points=0))
    assert packed['inputs']['points'].shape == (0, 5)


def test_the_model_gets_the_matrices_of_the_augmented_scene(make_sample):
    sample = make_sample()
    # mmdet3d packs matrices of the info file where a pipeline has set none.
    for view, camera in enumerate(sample['images'].values()):
        camera['lidar2img'] = sample['lidar2img'][view].copy()
    before = sample['lidar2img'].copy()
    np.random.seed(0)
    sample = built(*training_steps(('points', 'img'))[:-1])(sample)
    scene, image = sample['lidar_aug_matrix'], sample['img_aug_matrix']
    packed = built(training_steps(('points', 'img'))[-1])(sample)
    np.testing.assert_allclose(
        packed['data_samples'].metainfo['lidar2img'], image @ before @ np.linalg.inv(scene)
    )
    assert not np.allclose(packed['data_samples'].metainfo['lidar2img'], before)


@pytest.fixture
def make_image_files(tmp_path: Path) -> Callable[..., dict]:
    def make(sizes: list[tuple[int, int]]) -> dict:
        rng = np.random.default_rng(0)
        images = {}
        for view, (height, width) in enumerate(sizes):
            path = tmp_path / f'{view}.png'
            mmcv.imwrite(rng.integers(0, 255, (height, width, 3), dtype=np.uint8), str(path))
            images[f'CAM_{view}'] = dict(
                img_path=str(path),
                cam2img=[[10.0 + view, 0, 4], [0, 9, 3], [0, 0, 1]],
                lidar2cam=rng.normal(size=(4, 4)).astype(np.float32).tolist(),
            )
        return dict(images=images)

    return make


def test_loading_gives_images_and_the_product_of_their_matrices(make_image_files):
    sample = make_image_files([(6, 8), (6, 8)])
    loaded = LoadCalibratedMultiViewImages()(sample)
    assert loaded['camera_names'] == ['CAM_0', 'CAM_1']
    assert loaded['img_shape'] == loaded['ori_shape'] == (6, 8)
    for view, camera in enumerate(sample['images'].values()):
        expected = np.eye(4)
        expected[:3, :3] = camera['cam2img']
        np.testing.assert_allclose(
            loaded['lidar2img'][view], expected @ np.array(camera['lidar2cam'])
        )
        image = mmcv.imread(camera['img_path'])
        np.testing.assert_array_equal(loaded['img'][view], image)
        assert loaded['img'][view].flags.c_contiguous and loaded['img'][view].dtype == np.uint8
    assert loaded['lidar2img'].dtype == np.float64
    as_float = LoadCalibratedMultiViewImages(to_float32=True)(make_image_files([(6, 8)]))
    assert as_float['img'][0].dtype == np.float32


def test_a_missing_image_names_the_settings_to_check(make_image_files):
    sample = make_image_files([(6, 8)])
    Path(sample['images']['CAM_0']['img_path']).unlink()
    with pytest.raises(FileNotFoundError, match=r'0\.png.*data_root and data_prefix'):
        LoadCalibratedMultiViewImages()(sample)


def test_a_broken_image_is_named(make_image_files):
    sample = make_image_files([(6, 8)])
    Path(sample['images']['CAM_0']['img_path']).write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'0\.png.*8 bytes'):
        LoadCalibratedMultiViewImages()(sample)


def test_a_missing_calibration_names_camera_and_key(make_image_files):
    sample = make_image_files([(6, 8), (6, 8)])
    del sample['images']['CAM_1']['lidar2cam']
    with pytest.raises(KeyError, match=r'CAM_1 has no .lidar2cam.*tools/create_data.py'):
        LoadCalibratedMultiViewImages()(sample)


def real_frame_dataset() -> NuScenesDataset:
    """The one real frame, loaded and not augmented."""
    if not REAL_FRAME.is_dir():
        pytest.skip(f'{REAL_FRAME} is not there: the real nuScenes frame is not tested')
    return NuScenesDataset(
        data_root=str(REAL_FRAME),
        ann_file=next(REAL_FRAME.glob('*.pkl')).name,
        data_prefix=dict(pts='', img='', sweeps=''),
        modality=dict(use_camera=True, use_lidar=True),
        pipeline=[
            TRANSFORMS.build(step)
            for step in (
                dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
                dict(type='LoadCalibratedMultiViewImages'),
                dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
            )
        ],
        filter_empty_gt=False,
    )


def points_in_boxes(sample: dict) -> np.ndarray:
    boxes = sample['gt_bboxes_3d'].tensor.numpy()
    return box_np_ops.points_in_rbbox(sample['points'].tensor.numpy(), boxes).sum(axis=0)


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_boxes_of_a_real_frame_keep_their_points_and_their_picture(seed):
    dataset = real_frame_dataset()
    before, after = dataset[0], dataset[0]
    claimed = before['ann_info']['num_lidar_pts']
    counted = points_in_boxes(before)
    # The devkit counts in boxes that stand upright on the ground, not along the sensor's axis.
    assert (np.abs(counted - claimed) <= 3 + 0.2 * claimed).all()

    np.random.seed(seed)
    conf = dict(resize_lim=(0.47, 0.625), final_dim=(320, 800), H=900, W=1600, rand_flip=True)
    steps = training_steps(('points', 'img'))
    after = built(*steps[:2], dict(type='ResizeCropFlipImage', data_aug_conf=conf))(after)
    assert np.abs(points_in_boxes(after) - counted).max() <= 1

    centres = [s['gt_bboxes_3d'].gravity_center.numpy() for s in (before, after)]
    compared = 0
    for view in range(6):
        half = mmcv.imresize(before['img'][view], (800, 450))
        for old, new in zip(*centres, strict=True):
            u, v, depth = project(before['lidar2img'][view], old)
            new_u, new_v, new_depth = project(after['lidar2img'][view], new)
            assert abs(depth - new_depth) < 1e-3
            colours = [
                colour_around(half, u / 2, v / 2),
                colour_around(after['img'][view], new_u, new_v),
            ]
            if depth > 1 and all(colour is not None for colour in colours):
                compared += 1
                assert np.abs(colours[0] - colours[1]).max() < 12
    assert compared > 20


def colour_around(image: np.ndarray, u: float, v: float) -> np.ndarray | None:
    """Mean colour of the 9 x 9 pixels around a place, None where the image ends."""
    row, column = int(v), int(u)
    inside = 4 <= row < image.shape[0] - 4 and 4 <= column < image.shape[1] - 4
    if not inside:
        return None
    return image[row - 4 : row + 5, column - 4 : column + 5].mean(axis=(0, 1))


def project(lidar2img: np.ndarray, point: np.ndarray) -> tuple[float, float, float]:
    u, v, depth = lidar2img[:3, :3] @ point + lidar2img[:3, 3]
    return u / depth, v / depth, depth
