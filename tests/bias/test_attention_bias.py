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
