"""The bias reaches the cross-attention of each layer, by role, and nothing else."""

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import ConfigDict
from torch import nn

from cmt_bias.ops import NOT_SEEN, QueryWindows, TokenLayout, Window, WindowedBias

from .golden_head import NUM_LAYERS, SPEC


@MODELS.register_module()
class AttentionWithoutBias(nn.MultiheadAttention):
    """Takes no bias."""

    def __init__(self, embed_dims: int, num_heads: int, **kwargs) -> None:
        super().__init__(embed_dims, num_heads, batch_first=True)


def build(cross_attention: dict | None = None) -> nn.Module:
    config = ConfigDict(SPEC['cfg']['transformer'], type='AttentionBiasCmtTransformer')
    if cross_attention:
        config.decoder.transformerlayers.attn_cfgs[1].update(cross_attention)
    torch.manual_seed(0)
    transformer = MODELS.build(config).eval()
    transformer.init_weights()
    return transformer


def test_cross_attention_that_cannot_take_a_bias_is_an_error_at_build_time():
    with pytest.raises(TypeError, match='AttentionWithoutBias cannot take a bias.*attn_cfgs'):
        build(dict(type='AttentionWithoutBias'))


def test_dropout_of_the_probabilities_is_an_error_at_build_time():
    with pytest.raises(ValueError, match=r'dropout=0.1.*set dropout=0'):
        build(dict(type='PETRMultiheadAttention', dropout=0.1))


@pytest.mark.parametrize('cls', ['PETRMultiheadAttention', 'PETRMultiheadFlashAttention'])
def test_bias_is_for_the_cross_attention_even_with_as_many_keys_as_queries(cls):
    transformer = build(dict(type=cls, dropout=0.0))
    length, channels = 12, transformer.embed_dims
    memory, memory_pos, query_pos = torch.randn(3, 2, length, channels).unbind(0)
    given = {}
    for number, layer in enumerate(transformer.decoder.layers):
        for role, attention in zip(('self', 'cross'), layer.attentions, strict=True):
            attention.register_forward_pre_hook(
                lambda _, args, kwargs, key=(number, role): given.update({key: kwargs}),
                with_kwargs=True,
            )
    cells = torch.full((2, length, 1, 2), NOT_SEEN, dtype=torch.int32)
    windows = QueryWindows(TokenLayout((3, 4)), cells, (Window(1), Window(1)))
    strength = torch.arange(float(NUM_LAYERS)).view(-1, 1, 1, 1).expand(-1, 2, length, 2)
    bias = WindowedBias(windows, strength)
    transformer(memory, memory_pos, query_pos, attention_bias=bias)
    for number in range(NUM_LAYERS):
        assert 'logit_bias' not in given[number, 'self']
        found = given[number, 'cross']['logit_bias']
        assert found.windows is windows and torch.equal(found.strength, strength[number])
    transformer(memory, memory_pos, query_pos, attention_bias=bias.of_layer(1))
    for number in range(NUM_LAYERS):
        assert torch.equal(given[number, 'cross']['logit_bias'].strength, strength[1])


def test_without_a_bias_it_is_the_plain_transformer():
    biased = build()
    plain = MODELS.build(ConfigDict(SPEC['cfg']['transformer'])).eval()
    plain.load_state_dict(biased.state_dict())
    inputs = torch.randn(3, 1, 8, plain.embed_dims).unbind(0)
    torch.testing.assert_close(biased(*inputs), plain(*inputs), rtol=0, atol=0)
