"""The 800x320 recipe at reduced size on the real frame: what each of its stages gives.

Every part of the released recipe is there: all transforms (a past sweep and pasting too),
GridMask, ResNet-50 with its neck, voxel and sparse encoder, SECOND with its neck, the head and its
losses. Weights come from a formula. Run as a script this writes ``tests/data/whole_detector.json``
anew; do so only after a change that is meant to change the numbers.
"""

import json
import pickle
import runpy
import tempfile
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmdet3d.registry import DATASETS, MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from cmt_bias.datasets.box_overlap import points_in_boxes
from cmt_bias.datasets.loading import camera_matrices
from cmt_bias.datasets.object_sample import visible_boxes

ROOT = Path(__file__).parents[2]
FRAME = ROOT.parent / 'shared' / 'real_frame'
GOLDEN = ROOT / 'tests' / 'data' / 'whole_detector.json'
RECIPE = ROOT / 'configs' / 'cmt' / 'cmt_voxel0100_r50_800x320_8xb4-cyclic-20e_nus-3d.py'
FORMULA = ROOT / 'tests' / 'data' / 'released_backbone' / 'deterministic_values.py'
STAGES = (
    'img_backbone',
    'img_neck',
    'pts_voxel_encoder',
    'pts_middle_encoder',
    'pts_backbone',
    'pts_neck',
    'pts_bbox_head.shared_conv',
    'pts_bbox_head.transformer',
)
NUM_BOXES = 10


def reduced_recipe(folder: Path) -> Config:
    """The recipe with large voxels, small images and two decoder layers, reading the frame."""
    cfg = Config.fromfile(RECIPE)
    model, voxel_size, grid_size = cfg.model, [0.4, 0.4, 0.2], [256, 256, 40]
    model.data_preprocessor.voxel_layer.voxel_size = voxel_size
    model.pts_middle_encoder.sparse_shape = [41, 256, 256]
    model.pts_bbox_head.bbox_coder.voxel_size = voxel_size
    model.train_cfg.pts.grid_size = model.test_cfg.pts.grid_size = grid_size
    model.pts_bbox_head.transformer.decoder.num_layers = 2
    for dataset in (cfg.train_dataloader.dataset.dataset, cfg.test_dataloader.dataset):
        dataset.data_root, dataset.ann_file = str(FRAME), str(folder / 'infos.pkl')
        dataset.data_prefix = dict.fromkeys(dataset.data_prefix, '')
        for step in dataset.pipeline:
            if 'data_aug_conf' in step:
                conf = step.data_aug_conf
                conf.resize_lim = tuple(limit / 4 for limit in conf.resize_lim)
                conf.final_dim = tuple(side // 4 for side in conf.final_dim)
            if 'db_sampler' in step:
                step.db_sampler.data_root = str(folder)
                step.db_sampler.info_path = str(folder / 'dbinfos.pkl')
                step.db_sampler.sample_groups = dict(car=12, pedestrian=40, barrier=30)
    return cfg


def write_data(folder: Path) -> None:
    """The frame's info file with a past sweep, and a database of its objects for pasting.

    The sweep is the same cloud, as if taken by a vehicle that has turned since; the objects are
    turned by half a revolution around the LiDAR, so that they do not lie on themselves.
    """
    infos = pickle.loads(next(FRAME.glob('*.pkl')).read_bytes())
    (frame,) = infos['data_list']
    turn = np.deg2rad(4.0)
    lidar2sensor = np.eye(4)
    lidar2sensor[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    lidar2sensor[:3, 3] = (0.1, 1.5, 0.02)
    cloud_path = frame['lidar_points']['lidar_path']
    points = dict(lidar_path=cloud_path, lidar2sensor=lidar2sensor.tolist())
    frame['lidar_sweeps'] = [dict(timestamp=frame['timestamp'] - 0.1, lidar_points=points)]
    (folder / 'infos.pkl').write_bytes(pickle.dumps(infos))

    names = {label: name for name, label in infos['metainfo']['categories'].items()}
    cloud = np.fromfile(FRAME / cloud_path, np.float32).reshape(-1, 5)
    database: dict[str, list[dict]] = {name: [] for name in names.values()}
    for number, instance in enumerate(frame['instances']):
        box = np.nan_to_num(np.array([*instance['bbox_3d'], *instance['velocity']], np.float32))
        box[2] -= box[5] / 2  # z at the bottom
        own = cloud[points_in_boxes(cloud, box[None])[:, 0]]
        if instance['bbox_label_3d'] < 0 or len(own) < 5:
            continue
        own[:, :3] -= box[:3]
        own[:, :2] *= -1
        own.tofile(folder / f'{number}.bin')
        turned = box * np.float32([-1, -1, 1, 1, 1, 1, 1, -1, -1])
        turned[6] += np.pi
        database[names[instance['bbox_label_3d']]].append(
            dict(
                name=names[instance['bbox_label_3d']],
                path=f'{number}.bin',
                image_path=_write_crop(folder, frame, box, number),
                box3d_lidar=turned,
                num_points_in_gt=len(own),
                difficulty=0,
            )
        )
    (folder / 'dbinfos.pkl').write_bytes(pickle.dumps(database))


def _write_crop(folder: Path, frame: dict, box: np.ndarray, number: int) -> str:
    """Cut an object out of the first image that shows it; return the crop's path, or ''."""
    corners = LiDARInstance3DBoxes(box[None], box_dim=9).corners.double().numpy()
    cameras = frame['images']
    matrices = camera_matrices(cameras, 'cam2img') @ camera_matrices(cameras, 'lidar2cam')
    for info, matrix in zip(cameras.values(), matrices, strict=True):
        image = mmcv.imread(str(FRAME / info['img_path']))
        visible = visible_boxes(corners, matrix, image.shape[:2])
        for left, top, right, bottom in visible.rectangle:
            mmcv.imwrite(image[top:bottom, left:right], str(folder / f'{number}.png'))
            return f'{number}.png'
    return ''


def build_detector(cfg: Config) -> nn.Module:
    """The detector with weights from a formula, and without dropout, whose draws may differ."""
    init_default_scope('mmdet3d')
    model = MODELS.build(cfg.model)
    runpy.run_path(str(FORMULA))['fill_with_pseudo_random_values'](model)
    for parameter in model.img_neck.parameters():
        parameter.mul_(0.03)  # image tokens as large as those of the LiDAR
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def fingerprint(values: Tensor) -> list[float]:
    """Mean, mean size, and a mean with weights that tell positions apart."""
    values = values.detach().double().flatten()
    weights = torch.sin(torch.arange(len(values), dtype=torch.float64))
    means = (values.mean(), values.abs().mean(), (values * weights).mean())
    return [float(f'{float(mean):.8g}') for mean in means]


def watch(model: nn.Module, stages: dict[str, list[float]]) -> None:
    """Have each stage of the detector record the fingerprints of its outputs."""

    def record(name: str) -> Any:
        def hook(_module: nn.Module, _args: tuple, output: Any) -> None:
            levels = output if isinstance(output, (list, tuple)) else [output]
            for number, level in enumerate(levels):
                stages[f'{name}.{number}'] = fingerprint(level)

        return hook

    for name in STAGES:
        model.get_submodule(name).register_forward_hook(record(name))


def measure() -> dict[str, Any]:
    """Run the detector on the frame in a test and in a training step.

    Returns:
        ``test``: fingerprints of the inputs and the stages, and the best boxes; ``training``: the
        same of a training step, with its losses.
    """
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        write_data(folder)
        cfg = reduced_recipe(folder)
        model = build_detector(cfg)
        result: dict[str, Any] = dict(test={}, training={})
        stages: dict[str, list[float]] = {}
        watch(model, stages)

        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        batch = model.eval().data_preprocessor(pseudo_collate([dataset[0]]))
        (sample,) = model(**batch, mode='predict')
        found = sample.pred_instances_3d[:NUM_BOXES]
        result['test'] = dict(
            inputs=_fingerprints_of_inputs(batch['inputs']),
            stages=dict(stages),
            labels=found.labels_3d.tolist(),
            scores=found.scores_3d.tolist(),
            boxes=found.bboxes_3d.tensor.tolist(),
        )

        np.random.seed(0)
        torch.manual_seed(0)
        stages.clear()
        dataset = DATASETS.build(cfg.train_dataloader.dataset.dataset)
        batch = model.train().data_preprocessor(pseudo_collate([dataset[0]]), training=True)
        losses = model(**batch, mode='loss')
        truth = batch['data_samples'][0].gt_instances_3d
        result['training'] = dict(
            inputs=_fingerprints_of_inputs(batch['inputs']),
            truth=fingerprint(truth.bboxes_3d.tensor),
            num_truth=len(truth),
            stages=dict(stages),
            losses={name: float(loss) for name, loss in losses.items()},
        )
    return result


def _fingerprints_of_inputs(inputs: dict) -> dict[str, list[float]]:
    voxels = inputs['voxels']
    return dict(
        images=fingerprint(inputs['imgs']),
        voxels=fingerprint(voxels['voxels']),
        coors=fingerprint(voxels['coors']),
    )


if __name__ == '__main__':
    GOLDEN.write_text(json.dumps(measure(), indent=1) + '\n')
