"""Datasets and pipelines of an old config."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmdet3d.registry import TRANSFORMS

from .model import accepted_arguments
from .report import ConversionReport

META_KEYS = (
    'filename',
    'camera_names',
    'lidar2img',
    'ori_lidar2img',
    'img_shape',
    'ori_shape',
    'num_views',
    'lidar_path',
    'sample_idx',
    'token',
    'timestamp',
    'box_type_3d',
    'box_mode_3d',
    'masked_modality',
)
_CAMERAS = (
    'CAM_FRONT',
    'CAM_FRONT_LEFT',
    'CAM_FRONT_RIGHT',
    'CAM_BACK',
    'CAM_BACK_RIGHT',
    'CAM_BACK_LEFT',
)
_NUSCENES = ('CustomNuScenesDataset', 'NuScenesDataset')
_NEW_STEPS = dict(
    LoadPointsFromMultiSweeps='LoadAlignedSweeps',
    LoadMultiViewImageFromFiles='LoadCalibratedMultiViewImages',
    Collect3D='Pack3DDetInputs',
)
_DONE_ELSEWHERE = dict(
    DefaultFormatBundle3D='Pack3DDetInputs does it',
    NormalizeMultiviewImage='model.data_preprocessor: mean, std, bgr_to_rgb',
    PadMultiViewImage='model.data_preprocessor.pad_size_divisor',
    MultiScaleFlipAug3D='its transforms stand in the pipeline itself',
)
# Steps of a test pipeline that do nothing unless they are told to.
_IDLE_IN_TEST = dict(
    GlobalRotScaleTrans=dict(
        rot_range=[0, 0], scale_ratio_range=[1.0, 1.0], translation_std=[0, 0, 0]
    ),
    RandomFlip3D={},
)


def image_preparation(train: Mapping, report: ConversionReport) -> dict:
    """Arguments of the data preprocessor, from the steps of the training pipeline."""
    arguments: dict[str, Any] = {}
    for step in _steps(_innermost(train).get('pipeline', ())):
        if step['type'] == 'NormalizeMultiviewImage':
            to_rgb = step.get('to_rgb', True)
            arguments.update(mean=step['mean'], std=step['std'], bgr_to_rgb=to_rgb)
        elif step['type'] == 'PadMultiViewImage' and step.get('size_divisor'):
            arguments.update(pad_size_divisor=step['size_divisor'])
        elif step['type'] == 'PadMultiViewImage':
            report.lost['PadMultiViewImage.size'] = 'pad to a multiple with pad_size_divisor'
    return arguments


def convert_data(old: Mapping, report: ConversionReport) -> dict:
    """The dataloaders and evaluators for ``data`` of an old config."""
    data = old['data']
    samples, workers = data.get('samples_per_gpu', 1), data.get('workers_per_gpu', 2)
    gpus = len(list(old.get('gpu_ids') or range(8)))
    report.changed['data.samples_per_gpu'] = 'train_dataloader.batch_size'
    report.changed['data.workers_per_gpu'] = 'train_dataloader.num_workers, val_..., test_...'
    report.added['auto_scale_lr'] = f'the rates belong to {gpus} GPUs with {samples} samples'
    new: dict[str, Any] = dict(auto_scale_lr=dict(enable=False, base_batch_size=gpus * samples))
    for split in ('train', 'val', 'test'):
        if split not in data:
            continue
        training = split == 'train'
        report.changed[f'data.{split}'] = f'{split}_dataloader.dataset'
        dataset = _convert_dataset(data[split], f'data.{split}', training, report)
        new[f'{split}_dataloader'] = dict(
            batch_size=samples if training else 1,
            num_workers=workers,
            persistent_workers=not training,
            **(dict(worker_init_fn=dict(type='seed_worker_per_epoch')) if training else {}),
            sampler=dict(type='DefaultSampler', shuffle=training),
            dataset=dataset,
        )
        if not training:
            root, ann_file = dataset.get('data_root', ''), dataset.get('ann_file', '')
            new[f'{split}_cfg'] = {}
            new[f'{split}_evaluator'] = dict(
                type='NuScenesMetric', data_root=root, ann_file=f'{root}{ann_file}', metric='bbox'
            )
    return new


def _innermost(dataset: Mapping) -> Mapping:
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def _steps(pipeline: Sequence[Mapping]) -> Iterator[Mapping]:
    """The steps of a pipeline, those inside a step for test-time augmentation included."""
    for step in pipeline:
        yield step
        yield from _steps(step.get('transforms', ()))


def _convert_dataset(
    old: Mapping, path: str, training: bool, report: ConversionReport
) -> dict[str, Any]:
    if 'dataset' in old:
        return dict(
            old, dataset=_convert_dataset(old['dataset'], f'{path}.dataset', training, report)
        )
    new = dict(old)
    if old['type'] in _NUSCENES:
        new['type'] = 'AllBoxesNuScenesDataset' if training else 'CheckedNuScenesDataset'
        report.changed[f'{path}.type'] = f"'{old['type']}' is '{new['type']}'"
    else:
        report.lost[f'{path}.type'] = f'no dataset {old["type"]} here; kept'
    root = new['data_root'] = old['data_root'].rstrip('/') + '/' if old.get('data_root') else ''
    if isinstance(old['ann_file'], str):
        new['ann_file'] = old['ann_file'].removeprefix(root).lstrip('/')
        what = 'relative to data_root, in the format of mmdet3d 1.1: make it with create_data.py'
        report.changed[f'{path}.ann_file'] = what
    else:
        report.lost[f'{path}.ann_file'] = 'several files: make it a ConcatDataset; kept'
    if 'classes' in new:
        new['metainfo'] = dict(classes=new.pop('classes'))
        report.changed[f'{path}.classes'] = 'metainfo.classes'
    if new.pop('load_interval', 1) != 1:
        report.lost[f'{path}.load_interval'] = "use 'indices'"
    modality = old.get('modality') or {}
    new['modality'] = {key: bool(modality.get(key)) for key in ('use_lidar', 'use_camera')}
    for key in [key for key in modality if key not in new['modality']]:
        report.lost[f'{path}.modality.{key}'] = 'LiDAR and cameras are the sensors there are'
    new['data_prefix'] = dict(
        pts='samples/LIDAR_TOP',
        sweeps='sweeps/LIDAR_TOP',
        **{camera: f'samples/{camera}' for camera in _CAMERAS},
    )
    new['pipeline'] = _convert_pipeline(old['pipeline'], f'{path}.pipeline', root, report)
    return new


def _convert_pipeline(
    old: Sequence[Mapping], path: str, data_root: str, report: ConversionReport
) -> list[dict]:
    new: list[dict] = []
    for index, step in enumerate(old):
        name, where = step['type'], f'{path}[{index}]'
        if 'transforms' in step:
            report.changed[f'{path}: {name}'] = _DONE_ELSEWHERE.get(name, 'its steps, in a row')
            new += _convert_pipeline(step['transforms'], f'{where}.transforms', data_root, report)
        elif name in _DONE_ELSEWHERE:
            report.changed[f'{path}: {name}'] = _DONE_ELSEWHERE[name]
        elif '.transforms' in path and _IDLE_IN_TEST.get(name) == _arguments(step):
            report.changed[f'{path}: {name}'] = 'left out, it did nothing'
        else:
            new.append(_convert_step(step, f'{path}: {name}', data_root, report))
    return new


def _arguments(step: Mapping) -> dict:
    return {key: value for key, value in step.items() if key != 'type'}


def _convert_step(step: Mapping, where: str, data_root: str, report: ConversionReport) -> dict:
    new = dict(step, type=_NEW_STEPS.get(step['type'], step['type']))
    if new['type'] != step['type']:
        report.changed[where] = f"'{new['type']}'"
    if 'file_client_args' in new:
        backend = new.pop('file_client_args')
        new['backend_args'] = None if backend == dict(backend='disk') else backend
        report.changed[f'{where}.file_client_args'] = 'backend_args'
    if 'meta_keys' in new or new['type'] == 'Pack3DDetInputs':
        new['meta_keys'] = META_KEYS
        report.changed[f'{where}.meta_keys'] = 'those that this package reads'
    if 'db_sampler' in new:
        sampler = dict(new['db_sampler'])
        if not sampler.get('data_root'):
            sampler['data_root'] = data_root
            report.changed[f'{where}.db_sampler.data_root'] = 'data_root, where the files lie'
        new['db_sampler'] = sampler
    cls = TRANSFORMS.get(new['type'])
    if cls is None:
        report.lost[where] = f'no transform {step["type"]} here; kept, register one of your own'
        return new
    known = accepted_arguments(cls)
    for key in [key for key in new if key != 'type' and known is not None and key not in known]:
        del new[key]
        report.lost[f'{where}.{key}'] = f'{new["type"]} has no such argument'
    return new
