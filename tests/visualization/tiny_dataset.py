"""A dataset of three samples, two cameras and one car, in the format of MMDetection3D 1.x."""

import json
import pickle
from pathlib import Path

import mmcv
import numpy as np

CLASSES = ('car', 'pedestrian')
HEIGHT, WIDTH = 40, 64
NUM_SAMPLES = 3
CAR_AHEAD = [0.0, 10.0, 0.0, 4.0, 2.0, 1.5, np.pi / 2]
"""Gravity centre, size and yaw: 10 m ahead, along +y of the LiDAR frame, heading away."""

_META_KEYS = ('lidar2img', 'ori_lidar2img', 'filename', 'camera_names', 'sample_idx')


def camera_calibration(backwards: bool) -> tuple[np.ndarray, np.ndarray]:
    """cam2img (3, 3) and lidar2cam (4, 4) of a camera at the origin that looks along +y or -y."""
    cam2img = np.array([[40.0, 0, WIDTH / 2], [0, 40.0, HEIGHT / 2], [0, 0, 1.0]])
    sign = -1.0 if backwards else 1.0
    lidar2cam = np.diag([sign, 1.0, 1.0, 1.0]) @ np.array(
        [[1.0, 0, 0, 0], [0, 0, -1.0, 0], [0, sign, 0, 0], [0, 0, 0, 1.0]]
    )
    return cam2img, lidar2cam


def write_tiny_dataset(folder: Path) -> None:
    """Write images (blue in front, red behind), points, tables of scenes and the info file."""
    cameras = {'CAM_FRONT': (255, 0, 0), 'CAM_BACK': (0, 0, 255)}  # BGR
    for name, colour in cameras.items():
        image = np.full((HEIGHT, WIDTH, 3), colour, np.uint8)
        mmcv.imwrite(image, str(folder / f'{name}.png'))
    np.random.default_rng(0).normal(0, 10, (50, 5)).astype(np.float32).tofile(folder / 'lidar.bin')
    images = {}
    for name in cameras:
        cam2img, lidar2cam = camera_calibration(backwards=name == 'CAM_BACK')
        calibration = dict(cam2img=cam2img.tolist(), lidar2cam=lidar2cam.tolist())
        images[name] = dict(img_path=f'{name}.png', **calibration)
    car = dict(bbox_3d=CAR_AHEAD, bbox_label_3d=0, num_lidar_pts=5, velocity=[0.0, 0.0])
    unknown = {**car, 'bbox_label_3d': -1}
    samples = [
        dict(
            sample_idx=number,
            token=f'token{number}',
            timestamp=float(number),
            images=images,
            lidar_points=dict(lidar_path='lidar.bin', num_pts_feats=5),
            instances=[car, unknown],
        )
        for number in range(NUM_SAMPLES)
    ]
    content = dict(metainfo=dict(info_version='1.1'), data_list=samples)
    (folder / 'infos.pkl').write_bytes(pickle.dumps(content))
    tables = folder / 'v1.0-tiny'
    tables.mkdir()
    scene = dict(token='s', name='scene-0007', description='Night, rain')
    (tables / 'scene.json').write_text(json.dumps([scene]))
    sample_table = [dict(token=f'token{n}', scene_token='s') for n in range(NUM_SAMPLES)]
    (tables / 'sample.json').write_text(json.dumps(sample_table))


def dataset_config(
    folder: Path, training: bool = False, transforms: tuple[dict, ...] = ()
) -> dict:
    """The dataset as a config has it; ``transforms`` come between loading and packing."""
    annotations = [dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True)]
    keys = ['points', 'img', *(['gt_bboxes_3d', 'gt_labels_3d'] if training else [])]
    return dict(
        type='NuScenesDataset',
        data_root=str(folder),
        ann_file='infos.pkl',
        data_prefix=dict(pts='', img='', sweeps=''),
        metainfo=dict(classes=CLASSES, version='v1.0-tiny'),
        modality=dict(use_lidar=True, use_camera=True),
        test_mode=not training,
        pipeline=[
            dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
            dict(type='LoadCalibratedMultiViewImages'),
            *(annotations if training else []),
            *transforms,
            dict(type='Pack3DDetInputs', keys=keys, meta_keys=_META_KEYS),
        ],
    )
