"""Datasets and pipelines of an old config."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from mmdet3d.registry import DATASETS, TRANSFORMS
from mmengine.config import Config

from ..shipped_configs import config_path
from .report import ConversionReport

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
)
# Steps that a wrapper for test time augmentation tells what to do: nothing, without one.
_NO_MOTION = dict(rot_range=[0, 0], scale_ratio_range=[1.0, 1.0], translation_std=[0, 0, 0])
_IDLE_IN_TEST = (dict(type='GlobalRotScaleTrans', **_NO_MOTION), dict(type='RandomFlip3D'))


def training_pipeline(settings: Mapping) -> list[Mapping]:
    """The steps of an old config's training pipeline."""
    dataset = settings['data'].get('train', {})
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset.get('pipeline', [])


def image_preparation(pipeline: Sequence[Mapping], report: ConversionReport) -> dict:
    """Arguments of the data preprocessor, from the steps of the training pipeline."""
    arguments: dict[str, Any] = {}
    for step in pipeline:
        if step['type'] == 'NormalizeMultiviewImage':
            to_rgb = step.get('to_rgb', True)
            arguments.update(mean=step['mean'], std=step['std'], bgr_to_rgb=to_rgb)
        elif step['type'] == 'PadMultiViewImage' and step.get('size_divisor'):
            arguments.update(pad_size_divisor=step['size_divisor'])
        elif step['type'] == 'PadMultiViewImage':
            report.lost['PadMultiViewImage.size'] = 'pad to a multiple with pad_size_divisor'
    return arguments


def convert_data(old: dict, report: ConversionReport) -> dict:
    """The dataloaders and evaluators for ``data`` of an old config, which it takes out of it."""
    data = dict(old.pop('data'))
    # mmdet 2.2x: what differs from the settings for all
    own = dict(data.pop('train_dataloader', None) or {})
    samples = own.pop('samples_per_gpu', data.pop('samples_per_gpu', 1))
    workers = own.pop('workers_per_gpu', data.pop('workers_per_gpu', 2))
    gpus = len(list(old.get('gpu_ids') or range(8)))
    report.changed['data.samples_per_gpu'] = 'train_dataloader.batch_size'
    report.changed['data.workers_per_gpu'] = 'train_dataloader.num_workers, val_..., test_...'
    report.added['auto_scale_lr'] = f'the rates belong to {gpus} GPUs with {samples} samples'
    new: dict[str, Any] = dict(auto_scale_lr=dict(enable=False, base_batch_size=gpus * samples))
    for split in [split for split in ('train', 'val', 'test') if split in data]:
        training = split == 'train'
        report.changed[f'data.{split}'] = f'{split}_dataloader.dataset'
        dataset = _convert_dataset(data.pop(split), f'data.{split}', training, report)
        loader = new[f'{split}_dataloader'] = dict(
            batch_size=samples if training else 1,
            num_workers=workers,
            persistent_workers=not training,
            sampler=dict(type='DefaultSampler', shuffle=training),
            dataset=dataset,
        )
        if training:
            loader['worker_init_fn'] = dict(type='seed_worker_per_epoch')
        else:
            root, ann_file = dataset.get('data_root', ''), dataset.get('ann_file', '')
            new[f'{split}_cfg'] = {}
            new[f'{split}_evaluator'] = dict(
                type='NuScenesMetric', data_root=root, ann_file=f'{root}{ann_file}', metric='bbox'
            )
    report.lose('data', data)
    report.lose('data.train_dataloader', own)
    return new


def _convert_dataset(old: Mapping, path: str, training: bool, report: ConversionReport) -> dict:
    new = dict(old)
    if 'dataset' in old:
        new['dataset'] = _convert_dataset(old['dataset'], f'{path}.dataset', training, report)
        return report.keep_accepted(new, DATASETS.get(new['type']), path)
    for key in ('ann_file', 'pipeline'):
        if key not in old:
            raise ValueError(
                f"{path} has no '{key}': only a dataset of annotations, or wrappers that have one "
                "as 'dataset', can be converted"
            )
    if old['type'] in _NUSCENES:
        new['type'] = 'AllBoxesNuScenesDataset' if training else 'CheckedNuScenesDataset'
        report.changed[f'{path}.type'] = f"'{old['type']}' is '{new['type']}'"
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
    others = dict(old.get('modality') or {})
    new['modality'] = {key: bool(others.pop(key, False)) for key in ('use_lidar', 'use_camera')}
    report.lose(f'{path}.modality', others, 'LiDAR and cameras are the sensors there are')
    new['data_prefix'] = _our_data().data_prefix.to_dict()
    new['pipeline'] = _convert_pipeline(old['pipeline'], f'{path}.pipeline', root, report)
    return report.keep_accepted(new, DATASETS.get(new['type']), path)


@cache
def _our_data() -> Config:
    return Config.fromfile(config_path('_base_/datasets/nus-3d-fusion.py'))


def _convert_pipeline(
    old: Sequence[Mapping], path: str, data_root: str, report: ConversionReport
) -> list[dict]:
    new: list[dict] = []
    for index, step in enumerate(old):
        where = f'{path}: {step["type"]}'
        if 'transforms' in step:
            report.changed[where] = 'its transforms stand in the pipeline itself'
            inner = [inside for inside in step['transforms'] if inside not in _IDLE_IN_TEST]
            new += _convert_pipeline(inner, f'{path}[{index}]', data_root, report)
        elif step['type'] in _DONE_ELSEWHERE:
            report.changed[where] = _DONE_ELSEWHERE[step['type']]
        else:
            new.append(_convert_step(step, where, data_root, report))
    return new


def _convert_step(step: Mapping, where: str, data_root: str, report: ConversionReport) -> dict:
    new = dict(step, type=_NEW_STEPS.get(step['type'], step['type']))
    if new['type'] != step['type']:
        report.changed[where] = f"'{new['type']}'"
    if 'file_client_args' in new:
        backend = new.pop('file_client_args')
        new['backend_args'] = None if backend == dict(backend='disk') else backend
        report.changed[f'{where}.file_client_args'] = 'backend_args'
    if new['type'] == 'Pack3DDetInputs':
        new['meta_keys'] = _our_data().meta_keys
        report.changed[f'{where}.meta_keys'] = 'those that this package reads'
    if 'db_sampler' in new and not new['db_sampler'].get('data_root'):
        new['db_sampler'] = dict(new['db_sampler'], data_root=data_root)
        report.changed[f'{where}.db_sampler.data_root'] = 'data_root, where the files lie'
    return report.keep_accepted(new, TRANSFORMS.get(new['type']), where)
