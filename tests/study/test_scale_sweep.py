"""Predictions for each scale are those of a model that has it."""

import copy
from pathlib import Path

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from cmt_bias.cmt import CmtDetector
from cmt_bias.runs.preflight import ProblemsFound
from cmt_bias.study.scale_sweep import (
    LEARNED,
    ScaleSweepLoop,
    find_swept_head,
    predictions_by_scale,
)

CONFIGS = Path(__file__).parents[2] / 'configs'
BASE = next((CONFIGS / 'cmt').glob('cmt-tiny*.py'))
BIASED = next((CONFIGS / 'cmt_bias').glob('cmt-bias-fixed-tiny*.py'))
SCALES = [0.0, 2.0, 6.0, LEARNED]


@pytest.fixture(scope='module')
def batch(smallest_nuscenes) -> dict:
    """One frame as the data loader of a test gives it."""
    init_default_scope('mmdet3d')
    cfg = Config.fromfile(BIASED).test_dataloader
    cfg.update(num_workers=0, persistent_workers=False)
    cfg.dataset.data_root = f'{smallest_nuscenes}/'
    return next(iter(Runner.build_dataloader(cfg)))


def build(config: Path, **bias: object) -> CmtDetector:
    """A model of the recipe with few queries, in evaluation mode; its router is not zero."""
    init_default_scope('mmdet3d')
    cfg = Config.fromfile(config).model
    cfg.pts_bbox_head.num_query = 40
    if bias:
        cfg.pts_bbox_head.attention_bias_config.update(bias)
    torch.manual_seed(1)
    model = MODELS.build(cfg)
    model.init_weights()
    for key, value in model.named_parameters():
        if 'weight_logits.weight' in key:
            torch.nn.init.normal_(value)
    return model.eval()


@torch.no_grad()
def swept(model: CmtDetector, batch: dict, scales: list) -> dict:
    """Scores and boxes by scale."""
    predictions = {}
    for scale, samples in predictions_by_scale(model, copy.deepcopy(batch), scales):
        predictions[scale] = instances(samples)
    return predictions


def instances(samples: list) -> torch.Tensor:
    found = samples[0].pred_instances_3d
    return torch.cat([found.scores_3d[:, None], found.bboxes_3d.tensor], dim=1)


@torch.no_grad()
def predicted(model: CmtDetector, batch: dict) -> torch.Tensor:
    return instances(model.test_step(copy.deepcopy(batch)))


@pytest.mark.parametrize('granularity', ['shared', 'layer_modality'])
def test_the_learned_scale_gives_exactly_the_predictions_of_a_test(batch, granularity):
    model = build(BIASED, scale_granularity=granularity)
    scale = find_swept_head(model).generator.bias_scale
    with torch.no_grad():
        scale.copy_(torch.linspace(1.5, 3.5, scale.numel()).reshape(scale.shape))
    expected = predicted(model, batch)
    predictions = swept(model, batch, SCALES)
    assert predictions[LEARNED].equal(expected)
    assert not predictions[6.0].equal(expected)
    assert predicted(model, batch).equal(expected)


def test_an_overridden_scale_gives_exactly_the_predictions_of_a_model_that_has_it(batch):
    model = build(BIASED, scale_granularity='layer_modality', max_scale=3.0)
    predictions = swept(model, batch, SCALES)
    for scale in (2.0, 6.0):
        assert predictions[scale].equal(predicted(build(BIASED, bias_scale=scale), batch))


def test_scale_zero_gives_the_predictions_of_a_model_without_bias(batch):
    biased, base = build(BIASED), build(BASE)
    assert not base.load_state_dict(biased.state_dict(), strict=False).missing_keys
    torch.testing.assert_close(swept(biased, batch, [0.0])[0.0], predicted(base, batch))


def test_features_are_computed_once_for_all_scales(batch, monkeypatch):
    model, calls = build(BIASED), []
    head = model.pts_bbox_head
    for module in (
        model.img_backbone,
        model.pts_backbone,
        head.shared_conv,
        head.weight_generator,
    ):
        module.register_forward_hook(lambda module, *_: calls.append(module))
    assert set(swept(model, batch, SCALES)) == set(SCALES)
    assert len(calls) == len(set(calls)) == 4


def test_a_model_without_bias_is_explained():
    with pytest.raises(ProblemsFound, match=r'no attention bias(.|\n)*AttentionBiasCmtHead'):
        find_swept_head(build(BASE))


def test_an_evaluator_without_nuscenes_metric_is_explained():
    with pytest.raises(ProblemsFound, match='test_evaluator has no NuScenesMetric'):
        ScaleSweepLoop(None, None, dict(type='DumpResults', out_file_path='x.pkl'), scales=[1.0])
