"""The decoder against its definition written out."""

import pytest
import torch
import torch.nn.functional as F
from mmdet3d.registry import MODELS
from mmengine.registry import DefaultScope
from torch import nn

import cmt_bias.cmt  # noqa: F401  (registers the decoder)

CHANNELS, HEADS, LAYERS = 16, 4, 3
# outputs are of order one
ROUNDING = dict(rtol=1e-4, atol=1e-5)


def config(**changes) -> dict:
    attention = dict(embed_dims=CHANNELS, num_heads=HEADS, dropout=0.0)
    layer = dict(
        type='PETRTransformerDecoderLayer',
        with_cp=False,
        attn_cfgs=[
            dict(attention, type='MultiheadAttention'),
            dict(attention, type='PETRMultiheadAttention'),
        ],
        ffn_cfgs=dict(type='FFN', embed_dims=CHANNELS, num_fcs=2, ffn_drop=0.0),
        feedforward_channels=24,
        operation_order=('self_attn', 'norm', 'cross_attn', 'norm', 'ffn', 'norm'),
    )
    return dict(
        type='PETRTransformerDecoder',
        return_intermediate=True,
        num_layers=LAYERS,
        transformerlayers=dict(layer, **changes),
    )


def build(decoder: dict | None = None, **changes) -> nn.Module:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        module = MODELS.build(decoder or config(**changes))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.fixture
def inputs() -> tuple[torch.Tensor, ...]:
    """Query content, memory, query position, memory position and a mask of the queries."""
    generator = torch.Generator().manual_seed(1)
    query, memory, query_pos, memory_pos = (
        torch.randn(2, length, CHANNELS, generator=generator) for length in (6, 11, 6, 11)
    )
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[2:, :2] = True
    return query, memory, query_pos, memory_pos, mask


def attend(module: nn.Module, query, key, value, mask=None) -> torch.Tensor:
    """Scaled dot products, head by head."""
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    query, key, value = (
        F.linear(tokens, weight, bias)
        for tokens, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    width = CHANNELS // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / width**0.5
        if mask is not None:
            scores = scores.masked_fill(mask, -torch.inf)
        heads.append(scores.softmax(-1) @ value[..., part])
    return module.out_proj(torch.cat(heads, dim=-1))


def outputs_by_definition(decoder, query, memory, query_pos, memory_pos, mask) -> torch.Tensor:
    outputs = []
    for layer in decoder.layers:
        own = query + query_pos
        query = query + attend(layer.attentions[0].attn, own, own, query, mask)
        query = layer.norms[0](query)
        query = query + attend(
            layer.attentions[1].attn, query + query_pos, memory + memory_pos, memory
        )
        query = layer.norms[1](query)
        hidden = layer.ffns[0].layers[0][0](query).relu()
        query = layer.norms[2](query + layer.ffns[0].layers[1](hidden))
        outputs.append(decoder.post_norm(query))
    return torch.stack(outputs)


def test_all_layers_equal_their_definition(inputs):
    decoder = build()
    actual = decoder(*inputs)
    assert actual.shape == (LAYERS, 2, 6, CHANNELS)
    torch.testing.assert_close(actual, outputs_by_definition(decoder, *inputs), **ROUNDING)


def test_without_intermediate_outputs_the_last_layer_is_left(inputs):
    everything = build()(*inputs)
    last = build(dict(config(), return_intermediate=False))(*inputs)
    torch.testing.assert_close(last, everything[-1:])


def test_without_a_last_normalization_outputs_are_those_of_the_layers(inputs):
    decoder = build(dict(config(), post_norm_cfg=None))
    outputs = []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda _, args, output: outputs.append(output))
    assert torch.equal(decoder(*inputs), torch.stack(outputs))


def test_masked_queries_do_not_influence_the_others(inputs):
    decoder = build()
    query, memory, query_pos, memory_pos, mask = inputs
    with_hidden = decoder(query, memory, query_pos, memory_pos, mask)
    alone = decoder(query[:, 2:], memory, query_pos[:, 2:], memory_pos)
    torch.testing.assert_close(with_hidden[:, :, 2:], alone, **ROUNDING)


def test_recomputing_activations_changes_no_gradient(inputs):
    gradients = []
    for with_cp in (False, True):
        decoder = build(with_cp=with_cp).train()
        decoder(*inputs).square().sum().backward()
        gradients.append([parameter.grad for parameter in decoder.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize(
    'order',
    [
        ('self_attn', 'norm', 'cross_attn', 'norm'),
        ('norm', 'self_attn', 'norm', 'cross_attn', 'norm', 'ffn'),
        ('self_attn', 'norm', 'self_attn', 'norm', 'ffn', 'norm'),
        ('cross_attn', 'norm', 'self_attn', 'norm', 'ffn', 'norm'),
    ],
)
def test_other_orders_of_operations_are_refused(order):
    with pytest.raises(ValueError, match='operation_order'):
        build(operation_order=order)
