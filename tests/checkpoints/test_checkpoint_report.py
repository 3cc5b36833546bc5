"""Comparing checkpoints with models: which keys match, and whose checkpoint it is."""

import pytest
import torch
from torch import nn

from cmt_bias.checkpoints.checkpoint_report import compare_state_dict, fit_weights
from cmt_bias.checkpoints.safe_loading import CheckpointError
from cmt_bias.cmt import VoVNet


class TinyDetector(nn.Module):
    """Submodules named as in CmtDetector, few of them."""

    def __init__(self, num_classes: int = 10, num_layers: int = 3, channels: int = 4) -> None:
        super().__init__()
        self.img_backbone = nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels))
        self.pts_backbone = nn.Linear(channels, 8)
        self.pts_bbox_head = nn.Module()
        self.pts_bbox_head.transformer = nn.Sequential(
            *(nn.Linear(8, 8) for _ in range(num_layers))
        )
        self.pts_bbox_head.task_heads = nn.Linear(8, num_classes)
        self.pts_bbox_head.reference_points = nn.Embedding(5, 3)


def counts(report, part: str = '') -> tuple[int, int, int, int]:
    """Numbers of keys that match, are missing, are unexpected and are of other shape."""
    kinds = (report.matched, report.missing, report.unexpected, report.mismatched)
    return tuple(sum(key.startswith(part) for key in keys) for keys in kinds)


def test_parameter_of_the_model_itself_is_a_part_whatever_its_shape():
    model, other = nn.Module(), nn.Module()
    model.scale, other.scale = (nn.Parameter(torch.ones(size)) for size in (2, 3))
    assert compare_state_dict(model, other.state_dict()).describe() == (
        'scale:\n  1 of other shape: scale (model (2,), checkpoint (3,))'
    )


def test_own_checkpoint_matches_in_every_submodule():
    report = compare_state_dict(TinyDetector(), TinyDetector().state_dict())
    assert counts(report) == (18, 0, 0, 0)
    assert report.is_complete
    assert not report.is_other_model


def test_every_submodule_is_described_with_the_keys_that_differ():
    state_dict = TinyDetector(num_classes=4).state_dict()
    del state_dict['pts_backbone.bias']
    state_dict['extra.weight'] = torch.ones(1)
    assert (
        compare_state_dict(TinyDetector(), state_dict).describe()
        == """\
img_backbone:
  7 matched
pts_backbone:
  1 matched
  1 missing in the checkpoint: pts_backbone.bias
pts_bbox_head.transformer:
  6 matched
pts_bbox_head.reference_points:
  1 matched
extra:
  1 unknown to the model: extra.weight
pts_bbox_head.task_heads:
  2 of other shape: pts_bbox_head.task_heads.weight (model (10, 8), checkpoint (4, 8)), \
pts_bbox_head.task_heads.bias (model (10,), checkpoint (4,))"""
    )


def test_pretrained_backbone_alone_is_not_another_model_but_incomplete():
    backbone = TinyDetector().img_backbone.state_dict()
    state_dict = {f'img_backbone.{key}': value for key, value in backbone.items()}
    report = compare_state_dict(TinyDetector(), state_dict)
    assert not report.is_other_model
    assert not report.is_complete
    report.raise_if_other_model('backbone.pth')


def test_other_number_of_classes_is_a_mismatch_of_that_head():
    report = compare_state_dict(TinyDetector(), TinyDetector(num_classes=3).state_dict())
    assert report.mismatched == {
        'pts_bbox_head.task_heads.weight': '(model (10, 8), checkpoint (3, 8))',
        'pts_bbox_head.task_heads.bias': '(model (10,), checkpoint (3,))',
    }


def test_checkpoint_of_another_backbone_is_refused_with_keys_that_differ():
    other = TinyDetector()
    other.img_backbone = VoVNet('V-19-slim-eSE')
    report = compare_state_dict(TinyDetector(), other.state_dict())
    with pytest.raises(CheckpointError) as refusal:
        report.raise_if_other_model('other.pth')
    message = str(refusal.value)
    assert "'other.pth'" in message
    assert '6 missing in the checkpoint: img_backbone.0.weight' in message
    assert 'img_backbone.stage2.OSA2_1' in message
    assert 'Remedy' in message


def test_checkpoint_without_a_common_key_is_another_model():
    report = compare_state_dict(TinyDetector(), {'backbone.weight': torch.ones(1)})
    assert report.is_other_model
    assert compare_state_dict(TinyDetector(), {}).is_other_model


def test_checkpoint_with_more_submodules_than_the_model_fits():
    camera_only = TinyDetector()
    del camera_only.pts_backbone
    report = compare_state_dict(camera_only, TinyDetector().state_dict())
    assert report.is_complete
    assert not report.is_other_model
    assert counts(report, 'pts_backbone') == (0, 0, 2, 0)


def test_half_of_a_submodule_still_counts_as_the_same_model():
    report = compare_state_dict(
        TinyDetector(num_layers=3), TinyDetector(num_layers=2).state_dict()
    )
    assert not report.is_other_model  # 4 keys of the transformer match, 2 are missing
    report = compare_state_dict(
        TinyDetector(num_layers=5), TinyDetector(num_layers=2).state_dict()
    )
    assert report.is_other_model  # 4 match, 6 are missing


def test_prefix_of_a_distributed_wrapper_and_missing_counters_are_accepted():
    state_dict = {f'module.{key}': value for key, value in TinyDetector().state_dict().items()}
    del state_dict['module.img_backbone.1.num_batches_tracked']
    report = compare_state_dict(TinyDetector(), state_dict)
    assert report.is_complete
    assert counts(report, 'img_backbone') == (6, 0, 0, 0)


def test_comparing_changes_neither_model_nor_checkpoint():
    model, other = TinyDetector(), TinyDetector(num_classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state_dict = other.state_dict()
    keys = list(state_dict)
    compare_state_dict(model, state_dict)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert list(state_dict) == keys


def test_part_of_another_size_is_refused_and_the_message_names_the_key_that_leaves_it_out():
    weights = TinyDetector(num_classes=3).state_dict()
    with pytest.raises(CheckpointError) as refusal:
        fit_weights(TinyDetector(), weights, 'a.pth')
    message = str(refusal.value)
    assert 'the other 16 keys match' in message
    assert 'pts_bbox_head.task_heads.weight (model (10, 8), checkpoint (3, 8))' in message
    names = ['pts_bbox_head.task_heads.weight', 'pts_bbox_head.task_heads.bias']
    assert f'--cfg-options "load_from_skip={names}"' in message


def test_parts_that_the_user_names_are_left_out_and_the_rest_fits():
    weights = TinyDetector(num_classes=3).state_dict()
    fit_weights(TinyDetector(), weights, 'a.pth', ['pts_bbox_head.task_heads'])
    assert len(weights) == 16
    assert not any('task_heads' in key for key in weights)


def test_model_that_is_left_with_nothing_to_load_is_another_model():
    model = nn.Sequential(nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match='0 keys match'):
        fit_weights(model, {'0.weight': torch.ones(2, 2)}, 'a.pth', ['0.bias'])


def test_named_part_that_the_model_lacks_is_a_mistake():
    with pytest.raises(CheckpointError, match=r"load_from_skip names \['pts_bbox_head.task'\]"):
        fit_weights(TinyDetector(), TinyDetector().state_dict(), 'a.pth', ['pts_bbox_head.task'])


def test_weights_of_some_parts_will_do_for_a_start_but_not_for_a_resume():
    backbone = TinyDetector().img_backbone.state_dict()
    weights = {f'img_backbone.{key}': value for key, value in backbone.items()}
    fit_weights(TinyDetector(), weights, 'a.pth')
    with pytest.raises(CheckpointError, match=r"(?s)'a\.pth' lacks parts.*pts_backbone.*Remedy"):
        fit_weights(TinyDetector(), weights, 'a.pth', needs_all=True)


def test_entry_that_is_no_tensor_is_a_mismatch():
    weights = {**TinyDetector().state_dict(), 'pts_backbone.bias': [0.0] * 8}
    report = compare_state_dict(TinyDetector(), weights)
    assert counts(report, 'pts_backbone') == (1, 0, 0, 1)
