"""What the configs in configs/cmt_bias build, and that they change nothing else of CMT."""

from inspect import signature
from pathlib import Path

import pytest
import torch
from mmdet3d.registry import HOOKS, MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

from cmt_bias.bias import AttentionBiasCmtHead

CONFIGS = Path(__file__).parents[2] / 'configs'
PRESETS = ('fixed', 'learnable', 'aggressive', 'modality', 'layer', 'annealed', 'finetune')
ROBUST = {'robust': 'learnable', 'robust-finetune': 'finetune'}  # and what they train otherwise
# recipe: how its files are named, and the windows of LiDAR and cameras
RECIPES = {
    'tiny': ('-tiny_*', 'cmt-tiny_*', (3, 3)),
    '800x320': ('_*800x320_8xb4*', 'cmt_voxel0100_*8xb4*', (5, 7)),
    '1600x640': ('_*1600x640*', 'cmt_voxel0075_*', (5, 15)),
}
SCALES = {
    'fixed': (2.5, False, 'shared'),
    'learnable': (2.5, True, 'shared'),
    'aggressive': (3.5, True, 'shared'),
    'modality': (2.5, True, 'modality'),
    'layer': (2.5, True, 'layer'),
    'annealed': (2.0, True, 'shared'),
    'finetune': (2.5, True, 'shared'),
}


def load(preset: str, recipe: str) -> Config:
    init_default_scope('mmdet3d')
    (path,) = (CONFIGS / 'cmt_bias').glob(f'cmt-bias-{preset}{RECIPES[recipe][0]}.py')
    return Config.fromfile(path)


def load_baseline(recipe: str) -> Config:
    (path,) = (CONFIGS / 'cmt').glob(f'{RECIPES[recipe][1]}.py')
    return Config.fromfile(path)


def build_head(cfg: Config) -> nn.Module:
    head = cfg.model.pts_bbox_head
    return MODELS.build(
        dict(head, train_cfg=cfg.model.train_cfg.pts, test_cfg=cfg.model.test_cfg.pts)
    )


@pytest.fixture(params=PRESETS)
def preset(request) -> str:
    return request.param


@pytest.fixture(params=RECIPES)
def recipe(request) -> str:
    return request.param


def test_head_has_the_scale_and_the_windows_of_preset_and_recipe(preset, recipe):
    head = build_head(load(preset, recipe))
    assert type(head) is AttentionBiasCmtHead
    generator = head.attention_bias_generator
    scale, learnable, granularity = SCALES[preset]
    assert torch.all(generator.bias_scale == scale)
    assert isinstance(generator.bias_scale, nn.Parameter) == learnable
    assert generator.scale_granularity == granularity
    windows = tuple(window.size for window in generator.window_shapes)
    assert windows == RECIPES[recipe][2]


def test_nothing_but_the_bias_differs_from_the_baseline(preset, recipe):
    cfg, baseline = load(preset, recipe).to_dict(), load_baseline(recipe).to_dict()
    head, plain = cfg['model']['pts_bbox_head'], baseline['model']['pts_bbox_head']
    for key in ('weight_generator', 'attention_bias_config'):
        del head[key]
    for config, prefix in ((head, 'AttentionBias'), (plain, '')):
        assert config.pop('type') == f'{prefix}CmtHead'
        assert config['transformer'].pop('type') == f'{prefix}CmtTransformer'
    frozen = cfg['model'].pop('frozen_modules', ())
    assert bool(frozen) == (preset == 'finetune')
    assert cfg['model'] == baseline['model']
    changed = {key for key in baseline if cfg.get(key) != baseline[key]}
    allowed = {'model', 'custom_hooks', 'optim_wrapper'}
    if preset == 'finetune':
        allowed |= {'train_cfg', 'param_scheduler', 'load_from', 'max_epochs', 'auto_scale_lr'}
    assert changed <= allowed
    for config in (cfg, baseline):
        config['optim_wrapper'].pop('paramwise_cfg', None)
    assert cfg['optim_wrapper'] == baseline['optim_wrapper']


def difference(before: object, after: object, key: str = '') -> list[str]:
    """What a run with another config does differently: an entry, a list or a new part a line."""
    is_part = isinstance(before, dict) and isinstance(after, dict)
    if not is_part or key.endswith('custom_keys'):  # rates by parameters
        return [] if before == after else [f'{key}: {before!r} -> {after!r}']
    lines = []
    for name in {**before, **after}:
        parts = (settings.get(name) for settings in (before, after))
        lines += difference(*parts, f'{key}.{name}'.lstrip('.'))
    return lines


def test_the_difference_to_the_baseline_fits_on_a_few_lines(preset, recipe):
    # The other names of a config hold parts of what the runner is given.
    arguments = [name for name in signature(Runner).parameters if name != 'cfg']
    baseline, cfg = (
        {name: value for name, value in config.to_dict().items() if name in arguments}
        for config in (load_baseline(recipe), load(preset, recipe))
    )
    lines = difference(baseline, cfg)
    print('\n'.join(lines))  # noqa: T201
    assert 5 < len(lines) < 12


def test_hooks_of_the_baseline_stay_and_are_joined_by_those_of_the_bias(preset, recipe):
    cfg, baseline = load(preset, recipe), load_baseline(recipe)
    added = [hook.type for hook in cfg.custom_hooks if hook not in baseline.custom_hooks]
    expected = ['BiasScaleHook']
    if preset == 'annealed':
        expected.append('BiasScaleRangeHook')
    if preset == 'finetune' and recipe != 'tiny':
        expected.insert(0, 'PastingSwitchOffHook')  # from the first epoch on
    assert added == expected
    lost = {hook.type for hook in baseline.custom_hooks} - {hook.type for hook in cfg.custom_hooks}
    # fine-tuning does not start from branches alone
    assert lost <= ({'TokenScaleHook'} if preset == 'finetune' else set())
    if preset != 'finetune':
        assert all(hook in cfg.custom_hooks for hook in baseline.custom_hooks)
    for hook in cfg.custom_hooks:
        HOOKS.build(hook)


def test_scale_has_a_group_of_its_own(preset, recipe):
    cfg = load(preset, recipe)
    model = BaseModule()
    model.pts_bbox_head = build_head(cfg)
    wrapper = dict(cfg.optim_wrapper, type='OptimWrapper')
    for key in ('loss_scale', 'dtype'):  # mixed precision needs a GPU
        wrapper.pop(key, None)
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    scale = model.pts_bbox_head.attention_bias_generator.bias_scale
    found = [group for group in groups if any(p is scale for p in group['params'])]
    if preset == 'fixed':
        assert not found
        return
    (group,) = found
    assert len(group['params']) == 1
    multiplier = 0.1
    if preset == 'finetune':
        multiplier = 40.0 if recipe == 'tiny' else 1.0
    assert group['lr'] == pytest.approx(cfg.optim_wrapper.optimizer.lr * multiplier)
    assert group['weight_decay'] == 0
    rates = {
        name: group['lr'] / cfg.optim_wrapper.optimizer.lr
        for group in groups
        for parameter in group['params']
        for name, known in model.named_parameters()
        if known is parameter and name != 'pts_bbox_head.attention_bias_generator.bias_scale'
    }
    of_baseline = (
        load_baseline(recipe).optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', {})
    )
    for name, rate in rates.items():
        part = name.split('.')[1]
        expected = next((mult.lr_mult for key, mult in of_baseline.items() if key in name), 1.0)
        if preset == 'finetune' and not ('in_proj' in name or 'v_embedding' in name):
            expected = {'weight_generator': 1.0, 'transformer': 0.5}.get(part, 0.8)
        elif preset == 'finetune' and recipe != 'tiny':  # which keeps attention where it started
            expected = 0.5 if part == 'transformer' else 0.8
        assert rate == pytest.approx(expected), name


@pytest.mark.parametrize('robust', ROBUST)
def test_a_robust_preset_differs_by_the_failures_alone(robust, recipe):
    cfg, healthy = load(robust, recipe), load(ROBUST[robust], recipe)
    arguments = [name for name in signature(Runner).parameters if name != 'cfg']
    changed = {name for name in arguments if cfg.get(name) != healthy.get(name)}
    assert changed == {'train_dataloader', 'custom_hooks'}
    assert [hook for hook in cfg.custom_hooks if hook not in healthy.custom_hooks] == [
        dict(type='FailureEpochHook')
    ]
    pipelines = []
    for config in (cfg, healthy):
        dataset = config.train_dataloader.dataset
        pipelines.append(dataset.get('pipeline') or dataset.dataset.pipeline)
    kinds = [[step['type'] for step in pipeline] for pipeline in pipelines]
    place = kinds[1].index('ModalMask3D')
    assert kinds[0] == [*kinds[1][:place], 'RandomFailure', *kinds[1][place + 1 :]]
    failure = TRANSFORMS.build(pipelines[0][place])
    assert 0 < failure.probability < 1 and len(failure.failures) > 20
    assert {'spoiled_sensors', 'spoiled_views', 'spoiled_regions', 'lidar_aug_matrix'} <= set(
        pipelines[0][-1]['meta_keys']
    )


def test_value_can_be_set_on_the_command_line(preset):
    cfg = load(preset, 'tiny')
    cfg.merge_from_dict({'model.pts_bbox_head.attention_bias_config.bias_scale': 1.5})
    assert torch.all(build_head(cfg).attention_bias_generator.bias_scale == 1.5)


@pytest.mark.parametrize('training', [False, True])
def test_departs_from_the_baselines_outputs(preset, training, tiny_batch):
    baseline, biased = build_head(load_baseline('tiny')), build_head(load(preset, 'tiny'))
    missing, unexpected = biased.load_state_dict(baseline.state_dict(), strict=False)
    assert not unexpected
    new_parts = {'weight_generator', 'attention_bias_generator'}
    assert {key.split('.')[0] for key in missing} == new_parts
    outputs = []
    for head in (baseline, biased):
        head.train(training)
        torch.manual_seed(7)
        outputs.append(head(*tiny_batch)[0][0])
    expected, actual = outputs
    for name, values in expected.items():
        if name != 'denoising':
            difference = (actual[name] - values).abs().max()
            assert difference <= 2e-6 * max(values.abs().max(), 1), name
