"""Configs in the form of mmdet3d 1.0, converted, built and compared with the recipes here."""

import sys
from pathlib import Path

import pytest
from mmdet3d.registry import DATASETS, HOOKS, MODELS, PARAM_SCHEDULERS, TRANSFORMS
from mmengine.config import Config
from mmengine.config import config as config_module
from torch import Tensor
from torch.optim import SGD

from cmt_bias.config_conversion import convert_config

from ..tools.tool_modules import load_tool

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / 'configs' / 'cmt' / 'cmt_voxel0100_r50_800x320_8xb4-cyclic-20e_nus-3d.py'

OLD = """
plugin = True
plugin_dir = 'projects/plugin/'
cloud_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
names = {names}
image_norm = dict(mean=[103.530, 116.280, 123.675], std=[57.375, 57.120, 58.395], to_rgb=False)
image_aug = {image_aug}
code_weights = [2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2]
left_over = 'nothing uses this'
load = [
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=[0, 1, 2, 3, 4]),
    dict(type='LoadPointsFromMultiSweeps', sweeps_num=10, use_dim=[0, 1, 2, 3, 4]),
    dict(type='LoadMultiViewImageFromFiles'),
]
test_steps = [
    dict(type='GlobalRotScaleTrans', rot_range=[0, 0], scale_ratio_range=[1.0, 1.0],
         translation_std=[0, 0, 0]),
    dict(type='RandomFlip3D'),
    dict(type='ResizeCropFlipImage', data_aug_conf=image_aug, training=False),
    dict(type='NormalizeMultiviewImage', **image_norm),
    dict(type='PadMultiViewImage', size_divisor=32),
    dict(type='DefaultFormatBundle3D', class_names=names, with_label=False),
    dict(type='Collect3D', keys=['points', 'img']),
]
train_pipeline = [
    *load,
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='UnifiedObjectSample', sample_2d=True, mixup_rate=0.5, sample_method='depth',
         db_sampler=dict(
             type='UnifiedDataBaseSampler', data_root=None, rate=1.0, classes=names,
             info_path='data/nuscenes/nuscenes_dbinfos_train.pkl',
             prepare=dict(filter_by_difficulty=[-1]), sample_groups=dict(car=2))),
    dict(type='ModalMask3D', mode='train'),
    dict(type='CustomRandomFlip3D', sync_2d=False, flip_ratio_bev_horizontal=0.5,
         flip_ratio_bev_vertical=0.5),
    dict(type='PointsRangeFilter', point_cloud_range=cloud_range),
    dict(type='ObjectNameFilter', classes=names),
    dict(type='ResizeCropFlipImage', data_aug_conf=image_aug, training=True),
    dict(type='NormalizeMultiviewImage', **image_norm),
    dict(type='PadMultiViewImage', size_divisor=32),
    dict(type='DefaultFormatBundle3D', class_names=names),
    dict(type='Collect3D', keys=['points', 'img', 'gt_bboxes_3d', 'gt_labels_3d'],
         meta_keys=('lidar2img', 'pts_filename')),
]
test_pipeline = [
    *load, dict(type='MultiScaleFlipAug3D', img_scale=(1333, 800), pts_scale_ratio=1, flip=False,
                transforms=test_steps)]
modality = dict(use_lidar=True, use_camera=True, use_radar=False, use_map=False)
common = dict(data_root='data/nuscenes/', classes=names, modality=modality, box_type_3d='LiDAR')
val = dict(common, type='CustomNuScenesDataset', pipeline=test_pipeline, test_mode=True,
           ann_file='data/nuscenes//nuscenes_infos_val.pkl', load_interval=1)
data = dict(
    samples_per_gpu=4, workers_per_gpu=6,
    train=dict(type='CBGSDataset', dataset=dict(
        common, type='CustomNuScenesDataset', pipeline=train_pipeline, test_mode=False,
        ann_file='data/nuscenes//nuscenes_infos_train.pkl')),
    val=val, test=val)
model = dict(
    type='{detector}',
    use_grid_mask=True,
    img_backbone={img_backbone},
    img_neck={img_neck},
    pts_voxel_layer=dict(num_point_features=5, max_num_points=10, voxel_size=[0.1, 0.1, 0.2],
                         max_voxels=(120000, 160000), point_cloud_range=cloud_range),
    pts_voxel_encoder=dict(type='HardSimpleVFE', num_features=5),
    pts_middle_encoder={pts_middle_encoder},
    pts_backbone={pts_backbone},
    pts_neck={pts_neck},
    pts_bbox_head={pts_bbox_head},
    train_cfg=dict(pts=dict(
        dataset='nuScenes', grid_size=[1024, 1024, 40], gaussian_overlap=0.1,
        code_weights=code_weights,
        assigner=dict(
            type='HungarianAssigner3D', cls_cost=dict(type='FocalLossCost', weight=2.0),
            reg_cost=dict(type='BBox3DL1Cost', weight=0.25), code_weights=code_weights,
            iou_cost=dict(type='IoUCost', weight=0.0), pc_range=cloud_range))),
    test_cfg=dict(pts=dict(grid_size=[1024, 1024, 40], nms_thr=0.2, max_num=200)),
)
optimizer = dict(type='AdamW', lr=1.4e-4, weight_decay=0.01, paramwise_cfg=dict(custom_keys=dict(
    img_backbone=dict(lr_mult=0.01, decay_mult=5), img_neck=dict(lr_mult=0.1))))
optimizer_config = dict(
    type='CustomFp16OptimizerHook', loss_scale='dynamic',
    grad_clip=dict(max_norm=35, norm_type=2), custom_fp16=dict(pts_voxel_encoder=False))
{schedule}
evaluation = dict(interval=20)
checkpoint_config = dict(interval=1)
log_config = dict(interval=50, hooks=[dict(type='TensorboardLoggerHook')])
dist_params = dict(backend='nccl')
load_from = 'ckpts/nuim_r50.pth'
resume_from = None
workflow = [('train', 1)]
gpu_ids = range(0, 8)
{hooks}
"""
CYCLIC = """
lr_config = dict(policy='cyclic', target_ratio=(6, 1e-4), cyclic_times=1, step_ratio_up=0.4)
momentum_config = dict(policy='cyclic', target_ratio=(0.85 / 0.95, 1), step_ratio_up=0.4)
total_epochs = 20
"""


def as_old(config: dict) -> dict:
    """A part of one of our models, as old configs write it."""
    old = {}
    for key, value in config.items():
        if isinstance(value, (list, tuple)):
            value = type(value)(as_old(v) if isinstance(v, dict) else v for v in value)
        old[key] = as_old(value) if isinstance(value, dict) else value
    if 'type' in old:
        old['type'] = old['type'].removeprefix('mmdet.')
        old['type'] = dict(PETRMultiheadAttention='MultiheadAttention').get(
            old['type'], old['type']
        )
    return old


@pytest.fixture(autouse=True)
def unformatted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out yapf, which takes longer than all that is tested here."""
    monkeypatch.setattr(config_module, 'FormatCode', lambda text, **_: (text, True))


@pytest.fixture(scope='module')
def recipe() -> Config:
    return Config.fromfile(RECIPE)


@pytest.fixture
def write_old(recipe, tmp_path):
    """Factory of old config files with the parts of our 800x320 model."""

    def write(detector='CmtDetector', head=None, schedule=CYCLIC, hooks='') -> Path:
        model = recipe.model.to_dict()
        parts = {
            key: as_old(model[key])
            for key in model
            if key.startswith(('img_', 'pts_')) and key != 'pts_voxel_encoder'
        }
        parts['pts_bbox_head'].update(head or {})
        text = OLD.format(
            names=list(recipe.class_names),
            image_aug=dict(recipe.image_augmentation),
            detector=detector,
            schedule=schedule,
            hooks=hooks,
            **parts,
        )
        path = tmp_path / 'old.py'
        path.write_text(text)
        return path

    return write


def convert(path: Path) -> tuple[Config, object]:
    text, report = convert_config(Config.fromfile(path, import_custom_modules=False))
    new = path.with_name('new.py')
    new.write_text(text)
    return Config.fromfile(new), report


def test_an_old_recipe_becomes_ours(write_old, recipe):
    new, report = convert(write_old())
    expected = recipe.model.to_dict()
    converted = new.model.to_dict()
    assert (
        converted.pop('train_cfg')['pts']['assigner']['cls_cost']['type'] == 'mmdet.FocalLossCost'
    )
    del expected['train_cfg']
    assert converted == expected
    for key in ('param_scheduler', 'load_from', 'auto_scale_lr', 'default_hooks', 'custom_hooks'):
        assert new[key] == recipe[key], key
    for key in ('optimizer', 'type', 'clip_grad', 'paramwise_cfg', 'constructor', 'loss_scale'):
        assert new.optim_wrapper[key] == recipe.optim_wrapper[key], key
    assert new.train_cfg == recipe.train_cfg
    for split in ('val', 'test'):
        loader = dict(new[f'{split}_dataloader'], num_workers=4)
        ours = recipe[f'{split}_dataloader'].to_dict()
        assert loader['dataset']['pipeline'][:-1] == [
            {k: v for k, v in step.items() if k != 'backend_args'}
            for step in ours['dataset']['pipeline'][:-1]
            if step['type'] != 'PointsRangeFilter'
        ]
    train = new.train_dataloader
    assert (train.batch_size, train.dataset.dataset.ann_file) == (4, 'nuscenes_infos_train.pkl')
    assert train.dataset.dataset.type == 'AllBoxesNuScenesDataset'
    assert train.dataset.dataset.data_prefix == recipe.data_prefix
    steps = [step.type for step in train.dataset.dataset.pipeline]
    ours = [step.type for step in recipe.train_pipeline]
    assert steps == [step for step in ours if step in steps]
    assert report.lost['left_over'].startswith('not known')


def test_what_a_converted_config_names_is_there(write_old):
    new, _ = convert(write_old())
    MODELS.build(dict(new.model, img_backbone=None, img_neck=None))
    for loader in (new.train_dataloader.dataset.dataset, new.val_dataloader.dataset):
        for step in loader.pipeline:
            if step.type != 'UnifiedObjectSample':  # it needs its database
                TRANSFORMS.build(step)
    for hook in new.custom_hooks:
        HOOKS.build(hook)


def test_every_key_that_changed_or_has_no_counterpart_is_named(write_old):
    _, report = convert(write_old())
    train = 'data.train.dataset.pipeline'
    assert report.lost.keys() == {
        'left_over',
        'model.pts_voxel_layer.num_point_features',
        'model.train_cfg.pts.dataset',
        'model.train_cfg.pts.gaussian_overlap',
        'model.test_cfg.pts.max_num',
        'model.test_cfg.pts.nms_thr',
        'optimizer_config.custom_fp16',
        f'{train}: UnifiedObjectSample.sample_method',
        *(
            f'data.{split}.modality.{key}'
            for split in ('train.dataset', 'val', 'test')
            for key in ('use_radar', 'use_map')
        ),
    }
    for key, value in {
        'model.pts_voxel_layer': 'model.data_preprocessor.voxel_layer',
        'model.img_backbone.type': "'ResNet' is 'mmdet.ResNet'",
        f'{train}: LoadPointsFromMultiSweeps': "'LoadAlignedSweeps'",
        f'{train}: UnifiedObjectSample.db_sampler.data_root': 'data_root, where the files lie',
        'optimizer_config.grad_clip': 'optim_wrapper.clip_grad',
        'data.samples_per_gpu': 'train_dataloader.batch_size',
    }.items():
        assert report.changed[key] == value
    assert any('PastingSwitchOffHook' in key for key in report.added)


FINE_TUNING = """
lr_config = dict(policy='CosineAnnealing', by_epoch=False, warmup='linear', warmup_iters=1000,
                 warmup_ratio=0.3, min_lr_ratio=1e-3)
total_epochs = 6
"""
FREEZING = "custom_hooks = [dict(type='FreezeWeights', names=['transformer'])]"


def test_a_derived_project_keeps_its_own_classes_and_is_told_so(write_old):
    path = write_old(
        'MyDetector', dict(type='MyHead', ensemble=dict(type='MyEnsemble')), FINE_TUNING, FREEZING
    )
    new, report = convert(path)
    assert new.model.type == 'MyDetector' and new.model.pts_bbox_head.ensemble.type == 'MyEnsemble'
    for key in ('model.type', 'model.pts_bbox_head.type', 'model.pts_bbox_head.ensemble.type'):
        assert 'register one of your own' in report.lost[key]
    assert 'frozen_modules' in report.lost['custom_hooks[0]']
    ramp, cosine = new.param_scheduler
    assert (ramp.type, ramp.start_factor, ramp.end) == ('LinearLR', 0.3, 1000)
    assert (cosine.type, cosine.T_max, cosine.eta_min_ratio) == ('CosineAnnealingLR', 6, 1e-3)


BY_EPOCH = """
runner = dict(type='EpochBasedRunner', max_epochs=6)
lr_config = dict(policy='CosineAnnealing', warmup='linear', warmup_iters=2, warmup_by_epoch=True,
                 warmup_ratio=0.1, min_lr_ratio=1e-3, by_epoch=False)
"""


def test_what_has_a_counterpart_keeps_its_meaning(write_old):
    path = write_old(schedule=BY_EPOCH)
    text = path.read_text()
    text = text.replace('checkpoint_config = dict(', 'checkpoint_config = dict(max_keep_ckpts=7, ')
    text = text.replace("loss_scale='dynamic'", "loss_scale='dynamic', cumulative_iters=4")
    path.write_text(text + "data['train_dataloader'] = dict(samples_per_gpu=8)\n")
    new, report = convert(path)
    assert new.default_hooks.checkpoint.max_keep_ckpts == 7
    assert new.optim_wrapper.accumulative_counts == 4
    assert (new.train_dataloader.batch_size, new.auto_scale_lr.base_batch_size) == (8, 64)
    ramp = PARAM_SCHEDULERS.build(
        dict(new.param_scheduler[0], optimizer=SGD([Tensor()], lr=1.0), epoch_length=100)
    )
    assert (ramp.begin, ramp.end, ramp.by_epoch) == (0, 200, False)
    assert not {key for key in report.lost if key.startswith(('lr_config', 'data.train_data'))}


LOST = {
    'evaluation.save_best': ('evaluation = dict(', "evaluation = dict(save_best='NDS', "),
    'checkpoint_config.out_dir': (
        'checkpoint_config = dict(',
        "checkpoint_config = dict(out_dir='s3://', ",
    ),
    'checkpoint_config.interval': (
        'checkpoint_config = dict(',
        'checkpoint_config = dict(by_epoch=False, ',
    ),
    'optimizer_config.coalesce': ('grad_clip=dict(', 'coalesce=True, grad_clip=dict('),
    'lr_config.anneal_strategy': ("policy='cyclic', ", "policy='cyclic', anneal_strategy='cos', "),
    'log_config.hooks[0]': ('TensorboardLoggerHook', 'WandbLoggerHook'),
    'log_config.by_epoch': ('log_config = dict(', 'log_config = dict(by_epoch=False, '),
    'data.shuffler_sampler': (
        'data = dict(',
        "data = dict(shuffler_sampler=dict(type='DistributedGroupSampler'), ",
    ),
    'data.val_dataloader': ('data = dict(', 'data = dict(val_dataloader=dict(), '),
    'data.train_dataloader.pin_memory': (
        'data = dict(',
        'data = dict(train_dataloader=dict(pin_memory=True), ',
    ),
    'data.train.filter_empty': ("type='CBGSDataset', ", "type='CBGSDataset', filter_empty=True, "),
    'data.val.eval_version': ('load_interval=1', "eval_version='detection_cvpr_2019'"),
    'runner.rank': ('total_epochs = 20', 'runner = dict(max_epochs=20, rank=0)'),
}


def test_settings_that_are_not_converted_are_named(write_old):
    path = write_old()
    text = path.read_text()
    for old, new in LOST.values():
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    converted, report = convert(path)
    assert LOST.keys() <= report.lost.keys()
    for split in ('train', 'val', 'test'):
        dataset = converted[f'{split}_dataloader'].dataset
        dataset = dataset.get('dataset', dataset)
        DATASETS.build(dict(dataset, pipeline=[], lazy_init=True))


def test_a_training_that_counts_iterations_is_told(write_old):
    path = write_old(
        schedule="runner = dict(type='IterBasedRunner', max_iters=80000)\n"
        "lr_config = dict(policy='CosineAnnealing', min_lr_ratio=1e-3)"
    )
    path.write_text(path.read_text().replace('interval=20', 'interval=2000'))
    new, report = convert(path)
    assert 'max_iters=80000' in report.lost['runner.max_iters']
    assert 'set max_epochs' in report.lost['runner.max_iters']
    assert report.lost['evaluation.interval'].startswith('2000 iterations')
    assert new.train_cfg.val_interval == new.default_hooks.checkpoint.interval == 1


@pytest.mark.parametrize('missing', ['ann_file', 'pipeline'])
def test_a_dataset_without_its_parts_is_named(write_old, missing):
    path = write_old()
    path.write_text(path.read_text() + f"del data['val']['{missing}']\n")
    with pytest.raises(ValueError, match=f"data.val has no '{missing}'"):
        convert(path)


def test_a_test_pipeline_that_turns_the_cloud_keeps_doing_so(write_old):
    path = write_old()
    assert 'GlobalRotScaleTrans' not in str(convert(path)[0].test_dataloader)
    path.write_text(path.read_text().replace('rot_range=[0, 0]', 'rot_range=[0.3, 0.3]'))
    assert 'GlobalRotScaleTrans' in str(convert(path)[0].test_dataloader)


def test_an_unknown_schedule_is_named(write_old):
    _, report = convert(write_old(schedule="lr_config = dict(policy='poly')\ntotal_epochs = 2"))
    assert "'poly'" in report.lost['lr_config']


@pytest.fixture
def run_tool(monkeypatch):
    """Runs the tool in this process, which saves its imports."""
    tool = load_tool('convert_config')

    def run(path: Path) -> None:
        monkeypatch.setattr(sys, 'argv', ['convert_config.py', str(path)])
        tool.run_tool(tool.main)

    return run


def test_the_tool_prints_the_config_and_names_the_changes(write_old, run_tool, capsys):
    run_tool(write_old())
    printed = capsys.readouterr()
    compile(printed.out, 'new.py', 'exec')
    assert 'LoadAlignedSweeps' in printed.out
    assert 'No counterpart (' in printed.err and 'left_over: not known' in printed.err


@pytest.mark.parametrize(
    ('name', 'message'), [('of_today.py', 'need no conversion'), ('none.py', 'does not exist')]
)
def test_the_tool_refuses_what_cannot_be_converted(name, message, run_tool, capsys, tmp_path):
    (tmp_path / 'of_today.py').write_text('model = dict()')
    with pytest.raises(SystemExit) as stop:
        run_tool(tmp_path / name)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
