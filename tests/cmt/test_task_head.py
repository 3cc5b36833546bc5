"""Task heads of all decoder layers at once against one layer after the other."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import nn

from cmt_bias.cmt import SeparateTaskHead
from cmt_bias.cmt.task_head import GroupLayerNorm1d


def test_group_layer_norm_equals_layer_norm_of_each_group():
    torch.manual_seed(0)
    groups, channels = 3, 8
    norm = GroupLayerNorm1d(groups * channels, groups).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    features = torch.randn(2, groups * channels, 5, dtype=torch.float64, requires_grad=True)
    actual = norm(features)
    chunks = []
    for group in range(groups):
        part = slice(group * channels, (group + 1) * channels)
        reference = nn.LayerNorm(channels, eps=1e-6).double()
        reference.weight = nn.Parameter(norm.weight[part].detach())
        reference.bias = nn.Parameter(norm.bias[part].detach())
        chunks.append(reference(features[:, part].transpose(1, 2)).transpose(1, 2))
    expected = torch.cat(chunks, dim=1)
    torch.testing.assert_close(actual, expected)

    weight = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((actual * weight).sum(), features)
    (reference,) = torch.autograd.grad((expected * weight).sum(), features)
    torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize('kernel', [1, 3])
@pytest.mark.parametrize('num_convs', [1, 2, 3])
def test_grouped_branches_equal_one_layer_after_the_other(kernel, num_convs):
    torch.manual_seed(1)
    layers, in_channels, hidden, outputs = 4, 6, 5, 3
    if num_convs == 1:
        hidden = in_channels
    branches = dict(dim=(outputs, num_convs), cls_logits=(1, 1))
    head = SeparateTaskHead(in_channels, branches, layers, hidden, final_kernel=kernel)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    queries = torch.randn(layers, 2, 7, in_channels)
    actual = head(queries)['dim']
    assert actual.shape == (layers, 2, 7, outputs)
    for layer in range(layers):
        features = queries[layer].transpose(1, 2)  # (B, C, Q)
        for module in head.dim:
            if isinstance(module, nn.Conv1d):
                weight = module.weight.chunk(layers)[layer]
                bias = None if module.bias is None else module.bias.chunk(layers)[layer]
                features = F.conv1d(features, weight, bias, padding=kernel // 2)
            elif isinstance(module, GroupLayerNorm1d):
                affine = module.weight.chunk(layers)[layer], module.bias.chunk(layers)[layer]
                features = features.transpose(1, 2)
                features = F.layer_norm(features, features.shape[-1:], *affine, eps=1e-6)
                features = features.transpose(1, 2)
            else:
                features = features.relu()
        torch.testing.assert_close(actual[layer], features.transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_branches_have_one_order_whatever_that_of_the_config():
    """mmengine sorts the keys of configs that it writes, with which trainings are resumed."""
    released = dict(center=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2), iou=(1, 2))
    heads = [dict(released, cls_logits=(3, 2)), dict(sorted(released.items()), cls_logits=(3, 2))]
    heads.append(dict(reversed(heads[0].items())))
    orders = []
    for head in heads:
        names = [
            name for name, _ in SeparateTaskHead(in_channels=8, heads=head).named_parameters()
        ]
        orders.append(list(dict.fromkeys(name.split('.')[0] for name in names)))
    assert orders == [[*released, 'cls_logits']] * 3


def test_class_logits_start_at_a_low_probability():
    head = SeparateTaskHead(8, dict(cls_logits=(10, 2), center=(2, 2)), 3, init_bias=-2.19)
    assert (head.cls_logits[-1].bias == -2.19).all()
    head.init_weights()
    assert (head.cls_logits[-1].bias == -2.19).all()
    assert (head.center[-1].bias == 0).all()
    assert head.cls_logits[0].weight.std() > 0


def test_class_logits_start_at_a_low_probability_in_a_list_that_mmengine_does_not_enter():
    model = BaseModule()
    model.task_heads = nn.ModuleList([SeparateTaskHead(8, dict(cls_logits=(10, 2)))])
    model.init_weights()
    assert (model.task_heads[0].cls_logits[-1].bias == -2.19).all()
