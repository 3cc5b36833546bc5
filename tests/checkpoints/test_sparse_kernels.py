"""Kernels of sparse convolutions load right from files of every layout, or not at all."""

import copy
from collections import OrderedDict
from pathlib import Path

import mmdet3d.models.layers.spconv.overwrite_spconv.write_spconv2 as mmdet3d_loading
import pytest
import torch
from mmdet3d.models.layers.spconv import IS_SPCONV2_AVAILABLE
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from cmt_bias.checkpoints import sparse_kernels
from cmt_bias.checkpoints.checkpoint_report import compare_state_dict
from cmt_bias.checkpoints.safe_loading import CheckpointError

if IS_SPCONV2_AVAILABLE:
    from spconv.pytorch import SparseConv3d, SubMConv3d
else:
    from mmcv.ops import SparseConv3d, SubMConv3d


class SparseModel(BaseModule):
    """Kernels of the kinds that SparseEncoder has: 3x3x3, and 3x1x1 of as many channels."""

    def __init__(self, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.encoder = nn.Sequential(
            SubMConv3d(4, 6, 3, bias=True), nn.BatchNorm1d(6), SparseConv3d(6, 6, (3, 1, 1))
        )
        self.linear = nn.Linear(3, 3)


def first_to_last(kernel: Tensor) -> Tensor:
    return kernel.movedim(0, -1).contiguous()


def written(layout: int, version: int | None) -> tuple[SparseModel, OrderedDict]:
    """A model, and its weights as a library of a layout writes them, with a version or none."""
    model = SparseModel()
    weights = copy.deepcopy(model.state_dict())
    for key in [key for key in weights if weights[key].dim() == 5]:
        if layout == 1 and IS_SPCONV2_AVAILABLE:
            weights[key] = first_to_last(weights[key])
        elif layout == 2 and not IS_SPCONV2_AVAILABLE:
            weights[key] = weights[key].movedim(-1, 0).contiguous()
        weights._metadata[key.removesuffix('.weight')]['version'] = version
    if version is None:
        del weights._metadata
    return model, weights


@pytest.mark.parametrize('way', ['load_from', 'init_cfg', 'torch'])
@pytest.mark.parametrize(
    ('layout', 'version'), [(2, 2), (2, None), (2, 1), (1, 1), (1, None), (1, 2)]
)
def test_kernels_load_right_whatever_layout_and_version(layout, version, way, tmp_path):
    source, weights = written(layout, version)
    path = str(tmp_path / 'weights.pth')
    torch.save({'state_dict': weights}, path)
    if way == 'init_cfg':
        model = SparseModel(init_cfg={'type': 'Pretrained', 'checkpoint': path})
        model.init_weights()
    elif way == 'load_from':
        model = SparseModel()
        load_checkpoint(model, path, strict=True)
    else:
        model = SparseModel()
        model.load_state_dict(weights)
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize(('layout', 'version'), [(2, 2), (2, None), (1, 1), (1, None)])
def test_report_counts_kernels_of_every_layout_as_matching(layout, version):
    model, weights = written(layout, version)
    assert compare_state_dict(model, weights).is_complete


def test_kernel_of_another_size_is_another_size_in_every_layout():
    model, weights = written(2, None)
    weights['encoder.0.weight'] = torch.ones(7, 3, 3, 3, 4)
    report = compare_state_dict(model, weights)
    assert list(report.mismatched) == ['encoder.0.weight']
    with pytest.raises(RuntimeError, match='size mismatch for encoder.0.weight'):
        model.load_state_dict(weights)


def ambiguous() -> tuple[nn.Module, dict[str, Tensor]]:
    model = nn.Sequential(SubMConv3d(3, 3, 3, bias=False))
    return model, {'0.weight': torch.randn(3, 3, 3, 3, 3)}


def test_kernel_that_fits_both_ways_is_asked_about():
    model, weights = ambiguous()
    for load in (model.load_state_dict, lambda w: compare_state_dict(model, w)):
        with pytest.raises(CheckpointError, match=r"'0\.weight' of shape .*_metadata"):
            load(weights)


@pytest.mark.parametrize('version', [1, 2])
def test_version_decides_where_both_ways_fit(version):
    model, weights = ambiguous()
    kernel = weights['0.weight']
    weights = OrderedDict(weights)
    weights._metadata = {'0': {'version': version}}
    model.load_state_dict(weights)
    own = 2 if IS_SPCONV2_AVAILABLE else 1
    moved = kernel.movedim(-1, 0) if own == 2 else first_to_last(kernel)
    assert torch.equal(model[0].weight, kernel if version == own else moved)


def test_mmdet3d_still_reads_kernels_by_the_method_that_is_replaced():
    if IS_SPCONV2_AVAILABLE:
        assert sparse_kernels._load_own_layout is mmdet3d_loading._load_from_state_dict
    assert sparse_kernels.SparseModule._load_from_state_dict is sparse_kernels._load_any_layout


def test_weights_in_a_file_are_not_changed_by_loading(tmp_path: Path):
    model, weights = written(1, None)
    before = {key: value.clone() for key, value in weights.items()}
    model.load_state_dict(weights)
    assert all(torch.equal(weights[key], value) for key, value in before.items())
