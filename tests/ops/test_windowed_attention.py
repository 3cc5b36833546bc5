"""Attention to windows alone against masked dense attention in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cmt_bias.ops import windowed_attention

pytestmark = pytest.mark.usefixtures('window_kernel')


def masked_attention(query: Tensor, key: Tensor, value: Tensor, index: Tensor) -> Tensor:
    """The definition, by a mask over all keys."""
    keys = key.shape[2]
    wanted = torch.zeros(*index.shape[:2], keys, dtype=torch.bool)
    for batch, of_element in enumerate(index.tolist()):
        for query_number, of_query in enumerate(of_element):
            for number in of_query:
                if number >= 0:
                    wanted[batch, query_number, number] = True
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=wanted[:, None])
    return output.masked_fill(~wanted.any(-1)[:, None, :, None], 0)


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    queries=st.integers(1, 30),
    keys=st.integers(1, 80),
    width=st.integers(0, 9),
    logit_size=st.sampled_from([1.0, 30.0]),
)
def test_equals_attention_with_a_mask(seed, batch, queries, keys, width, logit_size):
    generator = torch.Generator().manual_seed(seed)
    query, key, value, grad = (
        torch.randn(batch, tokens, 2, 4, generator=generator, dtype=torch.float64).transpose(1, 2)
        for tokens in (queries, keys, keys, queries)
    )
    query = query * logit_size
    index = torch.randint(-1, keys, (batch, queries, width), generator=generator)
    index[:, 0] = -1
    inputs = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
    actual, expected = windowed_attention(*inputs, index), masked_attention(*inputs, index)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    for name, left, right in zip(
        ('query', 'key', 'value'),
        torch.autograd.grad(actual, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(
            left, right, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f'{name}: {text}'
        )
    single = windowed_attention(*(tensor.detach().float() for tensor in inputs), index)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-6 * max(1, logit_size))


def test_half_precision_and_autocast():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 2, tokens, 8, generator=generator) for tokens in (6, 40, 40)
    )
    index = torch.randint(-1, 40, (2, 6, 9), generator=generator)
    expected = windowed_attention(query, key, value, index)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        actual = windowed_attention(query, key, value, index)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=0, atol=0.03)


def test_queries_without_keys_have_no_gradient():
    query, key, value = (torch.randn(1, 1, 3, 4).requires_grad_() for _ in range(3))
    index = torch.full((1, 3, 2), -1)
    output = windowed_attention(query, key, value, index)
    assert torch.equal(output, torch.zeros_like(output))
    for grad in torch.autograd.grad(output.sum(), (query, key, value)):
        assert torch.equal(grad, torch.zeros_like(grad))
