"""Fused attention against torch's own multi-head attention, with the same parameters."""

import pytest
import torch
from torch import nn

from cmt_bias.cmt import PETRMultiheadAttention, PETRMultiheadFlashAttention
from cmt_bias.cmt.transformer import _known_backend

CLASSES = [PETRMultiheadAttention, PETRMultiheadFlashAttention]


@pytest.fixture
def tokens() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = dict(query=5, query_pos=5, key=9, key_pos=9, value=9)
    return {
        name: torch.randn(2, length, 16, generator=generator, dtype=torch.float64)
        for name, length in shapes.items()
    }


def with_random_parameters(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def reference_of(attention: PETRMultiheadAttention) -> nn.MultiheadAttention:
    reference = nn.MultiheadAttention(16, 4, batch_first=True).double()
    reference.load_state_dict(attention.attn.state_dict())
    return reference


@pytest.mark.parametrize('cls', CLASSES)
def test_cross_attention_adds_positions_to_query_and_key_but_not_to_value(cls, tokens):
    attention = with_random_parameters(cls(16, 4))
    query, key = tokens['query'], tokens['key']
    attended, _ = reference_of(attention)(
        query + tokens['query_pos'], key + tokens['key_pos'], tokens['value']
    )
    torch.testing.assert_close(attention(**tokens), query + attended)


@pytest.mark.parametrize('cls', CLASSES)
def test_self_attention_uses_the_query_position_for_the_keys(cls, tokens):
    attention = with_random_parameters(cls(16, 4))
    query, position = tokens['query'], tokens['query_pos']
    attended, _ = reference_of(attention)(query + position, query + position, query)
    positions = dict(query_pos=position, key_pos=position)
    torch.testing.assert_close(attention(query, query, query, **positions), query + attended)


@pytest.mark.parametrize('cls', CLASSES)
def test_mask_hides_keys_as_in_torch(cls, tokens):
    attention = with_random_parameters(cls(16, 4))
    mask = torch.rand(5, 9, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[:, 0] = False
    query, key, value = tokens['query'], tokens['key'], tokens['value']
    attended, _ = reference_of(attention)(query, key, value, attn_mask=mask)
    actual = attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(actual, query + attended)

    changed = value.clone()
    changed[:, mask[0]] += 100.0  # what the first query must not see
    key_changed = key.clone()
    key_changed[:, mask[0]] -= 3.0
    again = attention(query, key_changed, changed, attn_mask=mask)
    torch.testing.assert_close(again[:, 0], actual[:, 0])


@pytest.mark.parametrize('cls', CLASSES)
def test_gradients_equal_torchs(cls, tokens):
    attention = with_random_parameters(cls(16, 4))
    reference = reference_of(attention)
    query, key, value = tokens['query'], tokens['key'], tokens['value']
    weight = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3)).double()
    (attention(query, key, value) * weight).sum().backward()
    ((query + reference(query, key, value)[0]) * weight).sum().backward()
    for (name, ours), theirs in zip(
        attention.attn.named_parameters(), reference.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_both_classes_have_the_parameters_of_multi_head_attention():
    expected = {
        f'attn.{name}': parameter.shape
        for name, parameter in nn.MultiheadAttention(16, 4).named_parameters()
    }
    for cls in CLASSES:
        assert {n: p.shape for n, p in cls(16, 4).named_parameters()} == expected


def test_dropout_of_flash_attention_concerns_the_residual_branch_alone():
    attention = PETRMultiheadFlashAttention(16, 4, dropout=0.3)
    assert attention.attn_drop == 0 and attention.dropout_layer.p == 0.3
    plain = PETRMultiheadAttention(16, 4, dropout=0.3)
    assert plain.attn_drop == 0.3 and plain.dropout_layer.p == 0.3


@pytest.mark.parametrize('cls', CLASSES)
def test_dropout_none_is_none(cls):
    attention = cls(16, 4, dropout=None)
    assert attention.attn_drop == 0 and attention.dropout_layer.p == 0


@pytest.mark.parametrize('cls', CLASSES)
def test_dropout_acts_in_training_only(cls, tokens):
    attention = with_random_parameters(cls(16, 4, dropout=0.5))
    own = (tokens['query'],) * 3
    torch.manual_seed(0)
    assert not torch.equal(attention.train()(*own), attention(*own))
    assert torch.equal(attention.eval()(*own), attention(*own))


def test_other_layouts_of_tensors_are_refused():
    with pytest.raises(ValueError, match='batch_first'):
        PETRMultiheadAttention(16, 4, batch_first=False)


@pytest.mark.parametrize('former', ['flash', 'flex'])
def test_a_backend_of_an_earlier_version_is_auto_with_one_warning(former, caplog):
    _known_backend.cache_clear()
    with caplog.at_level('WARNING', logger='cmt_bias'):
        backends = [PETRMultiheadAttention(16, 4, bias_backend=former).bias_backend for _ in '12']
    assert backends == ['auto', 'auto']
    (record,) = caplog.records
    assert f"bias_backend='{former}' is no more" in record.getMessage()


def test_an_unknown_backend_is_refused_when_the_module_is_built():
    with pytest.raises(ValueError, match="attn_cfgs: bias_backend='flush'.*'auto', 'cpu'"):
        PETRMultiheadAttention(16, 4, bias_backend='flush')


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('cls', CLASSES)
def test_only_the_softmax_of_flash_attention_leaves_float32_under_autocast(
    cls, dtype, tokens, monkeypatch
):
    tokens = {name: values.float() for name, values in tokens.items()}
    attention = with_random_parameters(cls(16, 4)).float()
    expected = attention(**tokens)
    seen = []

    def stand_in(query, key, value, bias, backend):
        seen.append((torch.is_autocast_enabled('cpu'), {query.dtype, key.dtype, value.dtype}))
        return nn.functional.scaled_dot_product_attention(query, key, value)

    monkeypatch.setattr('cmt_bias.cmt.transformer.biased_attention', stand_in)
    with torch.autocast('cpu', dtype=dtype):
        plain = attention(**tokens)
        biased = attention(**tokens, logit_bias='a bias')
    in_half = cls is PETRMultiheadFlashAttention
    assert seen == [(in_half, {torch.float32})]
    for output in (plain, biased):
        assert output.dtype == torch.float32
        assert torch.equal(output, expected) != in_half
        torch.testing.assert_close(output, expected, rtol=0, atol=20 * torch.finfo(dtype).eps)
