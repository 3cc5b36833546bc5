"""Every shipped recipe builds: its model, its pipelines, its hooks and its parameter groups."""

from pathlib import Path

import pytest
from mmdet3d.registry import HOOKS, MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

RECIPES = sorted((Path(__file__).parents[1] / 'configs' / 'cmt').glob('*.py'))


def pipelines(cfg: Config) -> list[list[dict]]:
    datasets = [cfg.train_dataloader.dataset, cfg.val_dataloader.dataset]
    datasets = [dataset.get('dataset', dataset) for dataset in datasets]
    return [dataset.pipeline for dataset in datasets]


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def cfg(request) -> Config:
    init_default_scope('mmdet3d')
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


def test_rates_scale_from_eight_gpus_with_two_samples(cfg):
    samples = 2 if 'tiny' in Path(cfg.filename).stem else 16
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=samples)
