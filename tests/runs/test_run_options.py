"""What the command line options of train.py and test.py do to a config."""

import argparse
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch.utils import data

from cmt_bias.checkpoints import CheckpointError
from cmt_bias.runs import run_options
from cmt_bias.runs.preflight import ProblemsFound
from cmt_bias.runs.run_options import positive

PIPELINE = [
    dict(type='LoadPointsFromFile'),
    dict(type='ResizeCropFlipImage'),
    dict(type='Pack3DDetInputs'),
]
FUSION = dict(img_backbone=dict(type='A'), pts_voxel_encoder=dict(type='B'))
LIDAR_ONLY = dict(pts_voxel_encoder=dict(type='B'), pts_backbone=dict(type='C'))
CAMERA_ONLY = dict(img_backbone=dict(type='A'))


def config(**settings) -> Config:
    return Config(settings, cfg_text='# of a test', filename='configs/some_recipe.py')


def with_test_data(model: dict) -> Config:
    wrapped = dict(type='Wrapper', dataset=dict(pipeline=PIPELINE))
    return config(
        model=model,
        val_dataloader=dict(dataset=wrapped),
        test_dataloader=dict(dataset=dict(pipeline=PIPELINE)),
    )


def types_of(pipeline: list[dict]) -> list[str]:
    return [step['type'] for step in pipeline]


@pytest.mark.parametrize(('modality', 'masked'), [('L', 'image'), ('C', 'points')])
def test_one_sensor_is_masked_before_packing_in_val_and_test(modality, masked):
    cfg = with_test_data(FUSION)
    run_options.set_modality(cfg, modality)
    for pipeline in (
        cfg.val_dataloader.dataset.dataset.pipeline,
        cfg.test_dataloader.dataset.pipeline,
    ):
        assert types_of(pipeline) == [*types_of(PIPELINE[:2]), 'ModalMask3D', 'Pack3DDetInputs']
        assert pipeline[2] == dict(type='ModalMask3D', mode='test', mask_modal=masked)


@pytest.mark.parametrize(
    ('model', 'modality'),
    [(FUSION, None), (FUSION, 'LC'), (LIDAR_ONLY, 'L'), (LIDAR_ONLY, None), (CAMERA_ONLY, 'C')],
)
def test_all_sensors_of_a_model_leave_its_pipeline_as_it_is(model, modality):
    cfg = with_test_data(model)
    run_options.set_modality(cfg, modality)
    assert cfg.test_dataloader.dataset.pipeline == PIPELINE


@pytest.mark.parametrize(
    ('model', 'modality', 'message'),
    [
        (LIDAR_ONLY, 'C', '--modality C: the model reads LiDAR, no cameras'),
        (LIDAR_ONLY, 'LC', '--modality LC: the model reads LiDAR, no cameras'),
        (CAMERA_ONLY, 'L', '--modality L: the model reads cameras, no LiDAR'),
    ],
)
def test_a_sensor_that_the_model_lacks_is_refused(model, modality, message):
    with pytest.raises(ProblemsFound, match=message):
        run_options.set_modality(with_test_data(model), modality)


def test_missing_config_is_named(tmp_path):
    with pytest.raises(ProblemsFound, match=r"the config '.*nothing\.py' does not exist"):
        run_options.load_config(str(tmp_path / 'nothing.py'), None)


def test_missing_base_of_a_config_is_named(tmp_path):
    (tmp_path / 'recipe.py').write_text("_base_ = 'nothing.py'")
    with pytest.raises(
        ProblemsFound, match=r"inherits from '.*nothing\.py', which does not exist"
    ):
        run_options.load_config(str(tmp_path / 'recipe.py'), None)


def test_work_dir_is_the_option_then_the_config_then_the_file_name():
    cfg = config()
    run_options.set_work_dir(cfg, None)
    assert cfg.work_dir == str(Path('work_dirs') / 'some_recipe')
    cfg = config(work_dir='of_config')
    run_options.set_work_dir(cfg, None)
    assert cfg.work_dir == 'of_config'
    run_options.set_work_dir(cfg, 'of_option')
    assert cfg.work_dir == 'of_option'


def test_amp_is_switched_on_and_off_without_leftovers():
    plain = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
    cfg = config(optim_wrapper=plain)
    run_options.enable_amp(cfg)
    assert cfg.optim_wrapper == dict(plain, type='AmpOptimWrapper', loss_scale='dynamic')
    cfg.optim_wrapper.dtype = 'bfloat16'
    assert run_options.disable_amp(cfg)
    assert cfg.optim_wrapper == plain
    assert not run_options.disable_amp(cfg)


def test_amp_on_top_of_another_wrapper_is_refused():
    with pytest.raises(ProblemsFound, match=r'optim_wrapper\.type is ApexOptimWrapper'):
        run_options.enable_amp(config(optim_wrapper=dict(type='ApexOptimWrapper')))


def test_auto_scale_lr_needs_the_batch_size_that_the_rate_is_meant_for():
    cfg = config(auto_scale_lr=dict(enable=False, base_batch_size=16))
    run_options.enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=16)
    with pytest.raises(ProblemsFound, match='base_batch_size'):
        run_options.enable_auto_scale_lr(config())


@pytest.mark.parametrize(
    ('option', 'resume', 'load_from'),
    [
        (None, False, 'weights.pth'),
        ('auto', True, 'RUN/epoch_1.pth'),
        ('epoch_3.pth', True, 'epoch_3.pth'),
    ],
)
def test_resume(option, resume, load_from, tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'epoch_1.pth')
    cfg = config(resume=False, load_from='weights.pth', work_dir=str(tmp_path))
    run_options.set_resume(cfg, option)
    assert (cfg.resume, cfg.load_from) == (resume, load_from.replace('RUN', str(tmp_path)))


def test_first_start_with_resume_keeps_the_starting_weights(tmp_path):
    cfg = config(resume=False, load_from='weights.pth', work_dir=str(tmp_path))
    run_options.set_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (False, 'weights.pth')


def test_a_hook_is_added_once():
    cfg = config(custom_hooks=[dict(type='Other')])
    for _ in range(2):
        run_options.ensure_hook(cfg, 'RunSummaryHook')
    assert [hook.type for hook in cfg.custom_hooks] == ['Other', 'RunSummaryHook']


def test_picture_hook_writes_to_the_folder_of_the_option_and_keeps_its_settings(tmp_path):
    hook = dict(type='DetectionPictureHook', out_dir='pictures', max_samples=3)
    cfg = config(custom_hooks=[hook])
    settings = dict(out_dir=str(tmp_path), score_thr=0.2)
    run_options.add_picture_hook(cfg, **settings)
    assert cfg.custom_hooks == [dict(hook, **settings)]
    cfg = config()
    run_options.add_picture_hook(cfg, **settings)
    assert cfg.custom_hooks == [dict(type='DetectionPictureHook', save=True, **settings)]


@pytest.mark.parametrize('workers', [0, None, 2])
def test_settings_of_workers_are_dropped_where_there_are_none(tmp_path, workers):
    """torch refuses a dataloader that has them, and loads in the main process."""
    number = '' if workers is None else f'num_workers={workers}, '
    loader = f'dict({number}persistent_workers=True, prefetch_factor=2)'
    (tmp_path / 'recipe.py').write_text(f'train_dataloader = {loader}\nval_dataloader = None\n')
    cfg = run_options.load_config(str(tmp_path / 'recipe.py'), None)
    settings = {} if workers is None else dict(num_workers=workers)
    if workers:
        settings.update(persistent_workers=True, prefetch_factor=2)
    assert cfg.train_dataloader == settings
    data.DataLoader([1], **cfg.train_dataloader)


def test_a_window_that_cannot_be_opened_is_refused_with_the_way_to_do_without():
    with pytest.raises(ProblemsFound, match='no window can be opened here') as stop:
        run_options.show_in_window(config(), 'lidar_det', 1.0)
    assert '--show-dir' in str(stop.value)
    with pytest.raises(ProblemsFound, match='the model detects boxes'):
        run_options.show_in_window(config(), 'lidar_seg', 1.0)


def test_a_picture_hook_of_the_config_goes_on_writing_while_pictures_are_shown(monkeypatch):
    monkeypatch.setattr(run_options.matplotlib, 'get_backend', lambda: 'qtagg')
    cfg = config(custom_hooks=[dict(type='DetectionPictureHook', interval=5)])
    run_options.show_in_window(cfg, 'lidar_det', 1.0)
    assert cfg.custom_hooks == [
        dict(type='DetectionPictureHook', interval=5, show=True, wait_time=1.0, sensors='L')
    ]
    cfg = config()
    run_options.show_in_window(cfg, 'mono_det', 1.0)
    assert cfg.custom_hooks[0].save is False


def test_resume_looks_for_checkpoints_as_the_hook_names_them(tmp_path):
    for step in (6, 9):
        torch.save({'state_dict': {'a': torch.ones(9)}}, tmp_path / f'iter_{step}.pth')
    os.truncate(tmp_path / 'iter_9.pth', 100)
    cfg = config(resume=False, load_from=None, work_dir=str(tmp_path))
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False))
    run_options.set_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / 'iter_6.pth'))


def test_resume_stops_where_no_checkpoint_can_be_used(tmp_path):
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK\x03\x04')
    cfg = config(resume=False, load_from='weights.pth', work_dir=str(tmp_path))
    with pytest.raises(CheckpointError, match='none to resume from'):
        run_options.set_resume(cfg, 'auto')


@pytest.mark.parametrize(('modality', 'masked'), [('L', 'image'), ('C', 'points')])
def test_sensor_is_masked_in_each_view_of_test_time_augmentation(modality, masked):
    cfg = with_test_data(dict(type='TwoViews', module=FUSION))
    flips = [dict(type='GlobalRotScaleTransAll'), dict(type='CustomRandomFlip3D')]
    packing = [dict(type='Pack3DDetInputs', keys=['points', 'img'])]
    cfg.test_dataloader.dataset.pipeline = [
        dict(type='LoadPointsFromFile'),
        dict(type='TestTimeAug', transforms=[flips, packing]),
    ]
    run_options.set_modality(cfg, modality)
    stages = cfg.test_dataloader.dataset.pipeline[1]['transforms']
    assert stages[1] == [dict(type='ModalMask3D', mode='test', mask_modal=masked)]
    assert [stages[0], stages[2]] == [flips, packing]


def test_numbers_that_must_be_positive_are_refused_as_argparse_does(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument('--count', type=positive(int))
    assert parser.parse_args(['--count', '3']).count == 3
    for text, message in (('0', 'give a number above 0'), ('x', "invalid int value: 'x'")):
        with pytest.raises(SystemExit):
            parser.parse_args(['--count', text])
        assert message in capsys.readouterr().err
