"""Every shipped recipe builds: its model, its pipelines, its hooks and its parameter groups."""

import re
from pathlib import Path

import pytest
from mmdet3d.registry import HOOKS, MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

CONFIGS = Path(__file__).parents[1] / 'configs'
RECIPES = sorted((CONFIGS / 'cmt').glob('*.py'))
BIASED = sorted((CONFIGS / 'cmt_bias').glob('*.py'))


def pipelines(cfg: Config) -> list[list[dict]]:
    datasets = [cfg.train_dataloader.dataset, cfg.val_dataloader.dataset]
    datasets = [dataset.get('dataset', dataset) for dataset in datasets]
    return [dataset.pipeline for dataset in datasets]


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def cfg(request) -> Config:
    init_default_scope('mmdet3d')
    return Config.fromfile(request.param)


@pytest.fixture(scope='module', params=[*RECIPES, *BIASED], ids=lambda path: path.stem)
def training(request) -> Config:
    """With the bias or without."""
    return Config.fromfile(request.param)


def test_model_and_optimizer_build(cfg):
    model = MODELS.build(cfg.model)
    wrapper = dict(cfg.optim_wrapper, type='OptimWrapper')
    for key in ('loss_scale', 'dtype'):  # mixed precision needs a GPU
        wrapper.pop(key, None)
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    grouped = sum(len(group['params']) for group in optimizer.param_groups)
    assert grouped == sum(1 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize('recipe', ['cmt_voxel0100', 'cmt_voxel0075', 'cmt-camera'])
def test_image_backbone_learns_at_a_hundredth_of_the_rate(recipe):
    init_default_scope('mmdet3d')
    cfg = Config.fromfile(next(path for path in RECIPES if path.stem.startswith(recipe)))
    model = MODELS.build(cfg.model)
    wrapper = dict(cfg.optim_wrapper, type='OptimWrapper')
    for key in ('loss_scale', 'dtype'):
        wrapper.pop(key, None)
    base = cfg.optim_wrapper.optimizer.lr
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    rate_of = {id(p): group['lr'] for group in groups for p in group['params']}
    for name, parameter in model.named_parameters():
        expected = {'img_backbone': 0.01, 'img_neck': 0.1}.get(name.split('.')[0], 1.0)
        if parameter.requires_grad:
            assert rate_of[id(parameter)] == pytest.approx(base * expected), name


def test_transforms_and_hooks_are_registered(cfg):
    for pipeline in pipelines(cfg):
        for transform in pipeline:
            assert TRANSFORMS.get(transform.type) is not None, transform.type
    for hook in (*cfg.default_hooks.values(), *cfg.custom_hooks):
        assert HOOKS.get(hook.type) is not None, hook.type


def test_sweeps_are_loaded_in_their_place(cfg):
    """mmdet3d's own loader misplaces those of a turning vehicle."""
    loaders = [step.type for steps in pipelines(cfg) for step in steps if 'Sweeps' in step.type]
    assert loaders == ['LoadAlignedSweeps'] * (2 if cfg.input_modality.use_lidar else 0)


def test_evaluation_reads_the_version_that_the_file_name_says(cfg):
    version = cfg.val_dataloader.dataset.metainfo.version
    assert version == ('v1.0-mini' if 'mini' in Path(cfg.filename).stem else 'v1.0-trainval')


def test_batch_and_rates_are_those_of_the_file_name(training):
    """The released ResNet-50 recipe has 8 x 4 samples, the others 8 x 2."""
    name = Path(training.filename).stem
    gpus, samples = map(int, re.search(r'_(\d)xb(\d)-', name).groups())
    assert training.train_dataloader.batch_size == samples
    # nuScenes-mini has the rate of the whole of nuScenes, to be scaled
    base = 32 if 'nus-mini' in name else gpus * samples
    assert training.auto_scale_lr == dict(enable=False, base_batch_size=base)


def test_pasting_is_switched_off_before_training_ends(training):
    pastes = any(step.type == 'UnifiedObjectSample' for step in pipelines(training)[0])
    ends = [hook.epoch for hook in training.custom_hooks if hook.type == 'PastingSwitchOffHook']
    assert len(ends) == pastes
    assert all(end < training.train_cfg.max_epochs for end in ends)


def test_every_range_of_a_schedule_is_reached(training):
    for hook in training.custom_hooks:
        assert all(e < training.train_cfg.max_epochs for e, _ in hook.get('schedule', ())), hook


@pytest.mark.parametrize(
    ('recipe', 'samples', 'rate', 'grid_mask'),
    [
        ('cmt_voxel0100_r50_800x320_8xb4', 4, 1.4e-4, True),
        ('cmt_voxel0075_vov99_1600x640', 2, 1.0e-4, True),
        ('cmt-camera_vov99', 2, 1.0e-4, False),
        ('cmt-lidar_voxel0075', 2, 1.0e-4, False),
    ],
)
def test_settings_are_those_of_the_released_config(recipe, samples, rate, grid_mask):
    """Read off junjie18/CMT at d3b1d78: samples_per_gpu, optimizer.lr, model.use_grid_mask."""
    cfg = Config.fromfile(next(path for path in RECIPES if path.stem.startswith(recipe)))
    assert cfg.train_dataloader.batch_size == samples
    assert cfg.optim_wrapper.optimizer.lr == rate
    assert cfg.model.use_grid_mask is grid_mask


@pytest.mark.parametrize('samples', [2, 4])
def test_the_released_batch_has_the_released_rate(samples):
    """Old names go on as they were."""
    folder = RECIPES[0].parents[1]
    for path in folder.rglob(f'*voxel0100*8xb{samples}*.py'):
        cfg = Config.fromfile(path)
        assert cfg.train_dataloader.batch_size == samples
        assert cfg.auto_scale_lr.base_batch_size == 8 * samples
        assert cfg.optim_wrapper.optimizer.lr == 1.4e-4
