"""What is seen of a decoder at work."""

import torch

from cmt_bias.robustness.watch_hook import camera_share


def test_attention_is_shared_by_the_softmax_over_all_tokens():
    query, key = torch.zeros(2, 3, 5, 4), torch.randn(2, 3, 8, 4)
    assert torch.allclose(camera_share(query, key, None, 6), torch.full((2,), 0.25))
    query[1], key[1, :, :6], key[1, :, 6:] = 1.0, 0.0, 1.0  # cameras' logits are 4 / 2
    cameras = 2 * torch.tensor(2.0).exp()
    assert torch.allclose(camera_share(query, key, None, 6)[1], cameras / (cameras + 6))
