"""The sparse bias and its plain form."""

import torch

from cmt_bias.bias import AttentionBias, SegmentBias


def test_dense_form_holds_the_values_at_their_keys_and_zero_elsewhere():
    index = torch.tensor([[[2, -1, 0], [1, 1, -1]]])
    values = torch.tensor([[[0.5, 9.0, -1.0], [1.0, 2.0, 9.0]]])
    dense = AttentionBias(index, values).to_dense(4)
    assert dense.tolist() == [[[-1.0, 0.0, 0.5, 0.0], [0.0, 3.0, 0.0, 0.0]]]


def test_dense_form_of_layers_has_their_axis_first():
    index = torch.tensor([[[1]]])
    values = torch.tensor([[[[1.0]]], [[[2.0]]]])
    bias = AttentionBias(index, values)
    assert bias.to_dense(2).tolist() == [[[[0.0, 1.0]]], [[[0.0, 2.0]]]]
    assert bias.for_layer(1).to_dense(2).tolist() == [[[0.0, 2.0]]]


def test_segment_adds_one_value_to_all_its_keys():
    index = torch.tensor([[[0]]])
    segments = (SegmentBias(1, 3, torch.tensor([[4.0]])),)
    bias = AttentionBias(index, torch.tensor([[[1.0]]]), segments)
    assert bias.to_dense(4).tolist() == [[[1.0, 4.0, 4.0, 0.0]]]


def test_some_queries_have_their_rows_of_the_dense_form_and_of_the_mask():
    torch.manual_seed(0)
    index = torch.randint(-1, 9, (2, 5, 4))
    bias = AttentionBias(
        index, torch.randn(3, 2, 5, 4), (SegmentBias(6, 9, torch.randn(3, 2, 5)),)
    )
    queries = torch.tensor([4, 0, 2])
    some = bias.for_queries(queries)
    assert torch.equal(some.to_dense(9), bias.to_dense(9)[:, :, queries])
    assert torch.equal(some.to_mask(9), bias.to_mask(9)[:, queries])


def test_the_mask_holds_keys_whose_bias_is_zero_too():
    index = torch.tensor([[[2, -1, 0], [1, 1, -1]]])
    segments = (SegmentBias(3, 4, torch.zeros(1, 2)),)
    mask = AttentionBias(index, torch.zeros(1, 2, 3), segments).to_mask(5)
    assert mask.int().tolist() == [[[1, 0, 1, 1, 0], [0, 1, 0, 1, 0]]]


def test_attending_equals_softmax_with_the_dense_form():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (5, 11, 11))
    index = torch.randint(-1, 11, (2, 5, 4))
    bias = AttentionBias(
        index,
        torch.randn(2, 5, 4, dtype=torch.float64),
        (SegmentBias(2, 7, torch.randn(2, 5, dtype=torch.float64)),),
    )
    logits = query @ key.transpose(-1, -2) / 8**0.5 + bias.to_dense(11).unsqueeze(1)
    torch.testing.assert_close(bias.attend(query, key, value), logits.softmax(-1) @ value)
